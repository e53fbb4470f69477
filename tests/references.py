"""The references that are made from the code; the tests compare them with what is committed.

python -m tests.references     # writes them anew
"""

import inspect
import operator
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec

from gateway.config.model import FROM_FILE, RULES, SECTIONS
from gateway.config.secret import Secret
from gateway.config.sources import variable_of
from gateway.config.types import Boolean, Enum, Number, Rule, String, StringList
from gateway.core.http.errors import GatewayError, ProxyLoop
from gateway.errors import (
    UPSTREAM_DETAILS,
    CallerGone,
    DeadlinePassed,
    GaveWay,
    NoCredentials,
    NotCached,
    Overloaded,
    Throttled,
    TooManyConnections,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.server.reload import LIVE
from gateway.telemetry.metrics_catalogue import FAMILIES, Family

ROOT = Path(__file__).parents[1]
_MADE = "<!-- Made from the code by `python -m tests.references`; a test compares. -->\n"
_ABOUT_CONFIGURATION = (
    "Options of the command line beat environment variables, those beat the file, the file beats the",
    "defaults. [`gateway.toml`](gateway.toml) is a file with all of it and the reasons. Times are seconds,",
    "sizes bytes, both without a unit; lists are comma-separated in the environment.",
    "`aos-gateway check --config F` shows what is wrong with a file and what would be used. An unknown key",
    "or a value that is not allowed prevents the start. SIGHUP reads everything again: where its column says",
    "yes, a new value or a changed file of the same name takes effect; the other changes are listed in",
    "the log and need SIGUSR2 or a restart.",
)
_ABOUT_METRICS = (
    "`/metrics` on the admin address has one series for each combination of label values. The values",
    "come from fixed lists, and `node` from the Redis servers in use: nothing that a caller sends makes",
    "a new series. Where one scrape covers",
    "several workers, counters and histograms add up, and a gauge is merged as the last column says.",
)
_RULES = """\
# Made from alerts.yml by `python -m tests.references`; a test compares.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: aos-gateway
  labels:
    app.kubernetes.io/name: aos-gateway
    app.kubernetes.io/part-of: aos-gateway
spec:
  groups:
"""
_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")
_CONTINUED = re.compile(r"^        (\S.*)$")
_MERGED = {
    operator.add: "added up",
    min: "the least",
    max: "the greatest",
}


def configuration() -> str:
    """Return config/reference.md."""
    lines = [
        "# Configuration reference",
        "",
        _MADE,
        *_ABOUT_CONFIGURATION,
    ]
    for section, kind in SECTIONS.items():
        about = attributes(kind)
        lines += ["", f"## `[{section}]`", "", "| key | meaning | value | default | SIGHUP | environment |"]
        lines += ["|---|---|---|---|---|---|"]
        for field in msgspec.structs.fields(kind):
            name = f"{section}.{field.name}"
            variable = f"`{variable_of(name)}`"
            if name in FROM_FILE:
                variable += f" or `{variable_of(name)}_FILE`"
            lines.append(
                f"| `{field.name}` | {_cell(about[field.name])} | {_cell(_values(RULES[name]))} "
                f"| {_cell(_default(field))} | {'yes' if name in LIVE else ''} | {variable} |"
            )
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """Return deploy/monitoring/metrics.md."""
    lines = [
        "# Metrics reference",
        "",
        _MADE,
        *_ABOUT_METRICS,
        "",
        "| metric | type | labels | meaning | several workers |",
        "|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(
            f"| `{_exposed(family)}` | {family.kind} | {labels} | {_cell(family.about)} "
            f"| {_MERGED[family.merge]} |"
        )
    lines += ["", "## Label values that are there from the start", ""]
    for family in FAMILIES:
        if not family.labels or not family.known:
            continue
        lines.append(f"- `{_exposed(family)}`: {_known(family)}")
    lines += [
        "",
        "## Codes of the gateway's own errors",
        "",
        "They stand in the label `code` of `aos_gateway_errors_total` and in the body of the error. What is",
        "wrong with a request itself has the code `GATEWAY.<status>0001` and a detail of its own.",
        "",
        "| code | status | error in Proxy-Status | detail |",
        "|---|---|---|---|",
    ]
    for kind in sorted(_errors(), key=_code):
        details = {_proxy_error(kind): kind.detail}
        if kind in {UpstreamError, UpstreamTimeout}:
            details = {
                error: detail
                for error, detail in UPSTREAM_DETAILS.items()
                if error.endswith("_timeout") == (kind is UpstreamTimeout)
            }
        lines += [
            f"| `{_code(kind)}` | {kind.status} | `{error}` | {_cell(detail)} |"
            for error, detail in details.items()
        ]
    return "\n".join(lines) + "\n"


def rules() -> str:
    """Return the alert rules as the Prometheus operator takes them."""
    groups = (ROOT / "deploy/monitoring/alerts.yml").read_text("utf-8").partition("\ngroups:\n")[2]
    return _RULES + textwrap.indent(groups, "  ")


def _errors() -> list[type[GatewayError]]:
    """Return the errors that have one text, each with its code."""
    return [
        GatewayError,
        CallerGone,
        DeadlinePassed,
        GaveWay,
        NoCredentials,
        NotCached,
        Overloaded,
        ProxyLoop,
        Throttled,
        TooManyConnections,
        UpstreamError,
        UpstreamTimeout,
    ]


def _code(kind: type[GatewayError]) -> str:
    return f"GATEWAY.{kind.status}{kind.number:04d}"


def _proxy_error(kind: type[GatewayError]) -> str:
    return kind().proxy_error if kind in {GaveWay, Overloaded} else kind.proxy_error


def attributes(kind: type) -> dict[str, str]:
    """Return what a class's docstring says about each of its attributes."""
    found: dict[str, str] = {}
    name = ""
    for line in (inspect.getdoc(kind) or "").splitlines():
        if match := _ATTRIBUTE.match(line):
            name = match[1]
            found[name] = match[2]
        elif name and (more := _CONTINUED.match(line)):
            found[name] += f" {more[1]}"
    return found


def _values(rule: Rule) -> str:
    match rule:
        case Number():
            return f"{rule.low:g} to {rule.high:.15g}" + (f" {rule.unit}" if rule.of is int else "")
        case Boolean():
            return "true or false"
        case Enum():
            return " or ".join(f'`"{word}"`' for word in rule.words)
        case StringList():
            return "list of texts"
        case String():
            return "secret text" if rule.is_secret else "text"
        case _:
            raise TypeError(type(rule))


def _default(field: Any) -> str:
    match field.default:
        case msgspec.UNSET | msgspec.NODEFAULT:
            return "must be given"
        case bool():
            return f"`{str(field.default).lower()}`"
        case Secret():
            return '`""`'
        case float():
            return f"`{field.default:.10g}`"
        case int():
            return f"`{field.default}`"
        case tuple():
            return "`[" + ", ".join(f'"{item}"' for item in field.default) + "]`"
        case _:
            return f'`"{field.default}"`'


def _exposed(family: Family) -> str:
    return family.full_name + ("_total" if family.kind == "counter" else "")


def _known(family: Family) -> str:
    values: dict[str, list[str]] = {label: [] for label in family.labels}
    for known in family.known:
        for label, value in zip(family.labels, known, strict=True):
            if value not in values[label]:
                values[label].append(value)
    return "; ".join(
        f"`{label}` " + ", ".join(f"`{value}`" if value else "(empty)" for value in some)
        for label, some in values.items()
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


REFERENCES = {
    "config/reference.md": configuration,
    "deploy/monitoring/metrics.md": metrics,
    "deploy/monitoring/prometheusrule.yaml": rules,
}


def main() -> int:
    """Write all references."""
    for name, make in REFERENCES.items():
        (ROOT / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
