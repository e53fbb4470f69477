"""The scenario *pollers* at a server that runs already, on executions that run there."""

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final
from urllib.request import Request, urlopen

import msgspec

from benchmarks.behaviour.pollers import Counts, Poller, noticed, poll_until_end
from benchmarks.behaviour.result import Result, Side, errors_in_words
from benchmarks.behaviour.stage import Control, ControlError
from benchmarks.harness.arguments import count, positive
from benchmarks.openloop.targets import RequestPath, Token
from gateway.config.address import UpstreamUrl, upstream_url_of
from gateway.config.errors import ConfigError, InvalidValue, shorten
from gateway.config.secret import Secret
from gateway.config.sources import secret_in_file
from gateway.core.aos.execution import RecordSummary, decode_deciding
from gateway.core.caching.policy import IN_PROGRESS

_MAX_POLLERS: Final = 10_000
# Of executions that are found by themselves; and bounds of the lists.
_MOST_FOUND: Final = 10
_LIST_S: Final = 10.0
_LONGEST_LIST_BYTES: Final = 16_777_216
NAME: Final = "pollers"


class _Stack(msgspec.Struct):
    guid: str


class NothingToPollError(Exception):
    """There is no running execution, or no twin that counts; the text is one line with the reason."""


class UrlOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to poll, and how.

    Attributes:
        url: of the server.
        targets: an execution each; empty finds some that run.
        tokens: that callers share in turn; empty sends none.
        callers: pollers of each execution.
        interval_s: of each poller.
        seconds: until they give up.
        wait_s: callers send ``Prefer: wait`` with so many seconds; 0 polls.
        control: of the twin behind the server; ``None`` counts calls by what ``Cache-Status`` says.
    """

    url: UpstreamUrl
    targets: list[str]
    tokens: list[Secret]
    callers: int
    interval_s: float
    seconds: float
    wait_s: int
    control: UpstreamUrl | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this module to a command line."""
    group = parser.add_argument_group(
        "the scenario pollers at a server that runs already",
        "Every caller asks for the record of each execution again and again, on a connection of its own,"
        " until it has ended. Please do so only where the load is welcome.",
    )
    group.add_argument("--url", metavar="URL", help="of a gateway, or of AOS itself")
    group.add_argument(
        "--target",
        action="append",
        metavar="PATH",
        help="an execution that runs: /v2/stacks/STACK/actions/ACTION; may be repeated (default: up to 10 of"
        " those that the first token sees)",
    )
    group.add_argument(
        "--token-file",
        action="append",
        metavar="FILE",
        help="holds a token; may be repeated: callers take them in turn (default: the token in AOS_TOKEN)",
    )
    for name, kind, said in (
        ("callers", count, "callers of each execution (default: 50)"),
        ("every", positive, "seconds from one poll of a caller to the next (default: 2)"),
        ("seconds", positive, "until the callers give up (default: 600)"),
        ("wait", count, "seconds that the server is asked to wait for news (Prefer: wait)"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="N", help=said)
    group.add_argument(
        "--control", metavar="URL", help="control address of the twin behind it, which counts calls"
    )


def read_options(
    names: Sequence[str], options: argparse.Namespace, environ: Mapping[str, str]
) -> UrlOptions | None:
    """Check the options of `add_arguments`.

    Args:
        names: of the scenarios on the command line.
        options: as parsed.
        environ: has ``AOS_TOKEN``.

    Returns:
        ``None`` without ``--url``.

    Raises:
        ConfigError: one line with the option and the remedy, without the token.
    """
    if options.url is None:
        for name in ("target", "token_file", "callers", "every", "seconds", "wait", "control"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} needs --url")
        return None
    if list(names) != [NAME]:
        raise ConfigError(f"--url is for the scenario {NAME} alone; name it, and no other")
    targets = list(dict.fromkeys(options.target or ()))
    for target in targets:
        if not _fits(target, RequestPath):
            raise ConfigError(f"--target {shorten(target)} has to begin with / and hold visible ASCII alone")
    callers = options.callers or 50
    if (pollers := callers * (len(targets) or _MOST_FOUND)) > _MAX_POLLERS:
        raise ConfigError(f"{pollers} pollers are too many; lower --callers: at most {_MAX_POLLERS} in all")
    return UrlOptions(
        url=_url("--url", options.url),
        targets=targets,
        tokens=_tokens(options.token_file, environ),
        callers=callers,
        interval_s=options.every or 2.0,
        seconds=options.seconds or 600.0,
        wait_s=options.wait or 0,
        control=None if options.control is None else _url("--control", options.control),
    )


def _tokens(files: Sequence[str] | None, environ: Mapping[str, str]) -> list[Secret]:
    if files:
        tokens = [(f"the file {shorten(file)}", secret_in_file("--token-file", file)) for file in files]
    else:
        token = environ.get("AOS_TOKEN", "")
        tokens = [("AOS_TOKEN", token)] if token else []
    for where, token in tokens:
        if not _fits(token, Token):
            raise ConfigError(f"{where} holds a character that no token has; write the token alone into it")
    return [Secret(token) for _, token in tokens]


def _fits(text: str, kind: object) -> bool:
    with suppress(msgspec.ValidationError):
        msgspec.convert(text, kind)
        return True
    return False


def _url(option: str, text: str) -> UpstreamUrl:
    try:
        return upstream_url_of(text)
    except InvalidValue as exc:
        raise ConfigError(f"{option} {exc.value} {exc}") from exc


async def poll_at_url(options: UrlOptions) -> Result:
    """Poll until every caller has noticed the end; the first who notices it tells when it was.

    Raises:
        NothingToPollError: an execution is not there or has ended already, or `control` is no twin's.
    """
    tokens: list[str | None] = [secret.reveal() for secret in options.tokens]
    tokens = tokens or [None]
    targets = options.targets or await asyncio.to_thread(_running, str(options.url), tokens[0])
    for target in targets:
        await _look(str(options.url), target, tokens[0])
    counts = Counts()
    pollers = [
        Poller([str(options.url)], [target], tokens[number % len(tokens)], counts, wait_s=options.wait_s)
        for number in range(options.callers)
        for target in targets
    ]
    calls_before = await _calls(options)
    began_s = time.monotonic()
    await poll_until_end(pollers, options.interval_s, until_s=began_s + options.seconds)
    duration_s = time.monotonic() - began_s
    calls = counts.forwarded if options.control is None else await _calls(options) - calls_before
    ends_s: dict[str, float] = {}
    for poller in pollers:
        if poller.noticed_s is not None:
            ends_s[poller.target] = min(poller.noticed_s, ends_s.get(poller.target, poller.noticed_s))
    group = f"{len(pollers)} callers"
    name = f"Prefer: wait={options.wait_s}" if options.wait_s else f"every {options.interval_s:g} s"
    figures = {"calls_per_s": calls / duration_s, **noticed(pollers, ends_s)}
    side = Side.of_pollers(name, counts, calls, figures, group)
    counted = "Cache-Status" if options.control is None else "the twin"
    return Result(
        name=NAME,
        title=str(options.url),
        parameters={"kind": NAME, "targets": targets, "tokens": len(options.tokens)},
        calls_without=side.requests,
        calls_with=calls,
        sides=[side],
        seen=f"calls as {counted} tells, end as the first noticed it; {errors_in_words(side.errors)}",
    )


def _running(url: str, token: str | None) -> list[str]:
    """Return the newest execution of each stack whose newest one runs, as targets.

    Raises:
        NothingToPollError: there is none, or the server does not list any.
    """
    found: list[str] = []
    try:
        for stack in msgspec.json.decode(_get(f"{url}/v2/stacks", token), type=list[_Stack]):
            actions = f"/v2/stacks/{stack.guid}/actions"
            for raw in msgspec.json.decode(_get(f"{url}{actions}?last=true", token), type=list[msgspec.Raw]):
                record = decode_deciding(bytes(raw))
                if isinstance(record, RecordSummary) and record.phase in IN_PROGRESS:
                    found.append(f"{actions}/{record.name}")
                break
            if len(found) == _MOST_FOUND:
                break
    except (OSError, ValueError, msgspec.DecodeError) as exc:
        raise NothingToPollError(f"{url}: cannot list its executions: {exc}; name one: --target") from exc
    if not found:
        raise NothingToPollError(f"{url}: no execution runs; start one, or name it: --target")
    return found


def _get(url: str, token: str | None) -> bytes:
    headers = {} if token is None else {"X-Auth-Token": token}
    # The scheme is http or https: it comes from `upstream_url_of`.
    with urlopen(Request(url, headers=headers), timeout=_LIST_S) as response:
        body: bytes = response.read(_LONGEST_LIST_BYTES)
    return body


async def _look(url: str, target: str, token: str | None) -> None:
    """Ask once, so that there is no load where there is nothing to see."""
    counts = Counts()
    poller = Poller([url], [target], token, counts)
    await poller.ask()
    poller.close()
    if poller.status != 200 or counts.errors:
        found = f"answered {poller.status}" if poller.status else "not answered"
        raise NothingToPollError(f"{target}: {found}, nothing to poll: {errors_in_words(counts.errors)}")
    if poller.noticed_s is not None:
        raise NothingToPollError(f"{target}: has ended already; name an execution that runs")


async def _calls(options: UrlOptions) -> int:
    if options.control is None:
        return 0
    try:
        return await asyncio.to_thread(Control(str(options.control)).calls)
    except (ControlError, OSError) as exc:
        raise NothingToPollError(f"--control {options.control}: no twin's control address: {exc}") from exc
