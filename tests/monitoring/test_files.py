"""Rules and dashboard speak of metrics that there are, and every alert has its case."""

import re

import yaml

from gateway.telemetry.metrics_catalogue import FAMILIES

from .dashboard import FOLDER, dashboard, queries

_METRIC = re.compile(r"\b(?:aos_gateway|process)_[a-z_]+")
_ALERT = re.compile(r"^ *- alert: (\w+)$", re.MULTILINE)


def _exposed() -> dict[str, tuple[str, ...]]:
    """Every name that a scrape may have in front of its labels, with the labels."""
    found: dict[str, tuple[str, ...]] = {}
    for family in FAMILIES:
        suffixes = {
            "counter": ("_total",),
            "gauge": ("",),
            "histogram": ("_bucket", "_count", "_sum"),
        }
        for suffix in suffixes[family.kind]:
            more = ("le",) if suffix == "_bucket" else ()
            found[family.full_name + suffix] = (*family.labels, *more)
    return found


def test_the_dashboard_queries_existing_metrics_and_labels() -> None:
    exposed = _exposed()
    for query in queries():
        names = _METRIC.findall(query.expression)
        assert names, query
        for name in names:
            assert name in exposed, query
        for labels in re.findall(r"by \(([^)]*)\)", query.expression):
            for label in labels.split(", "):
                assert label in (*exposed[names[0]], "instance"), query


def test_every_metric_but_a_few_is_on_the_dashboard() -> None:
    shown = {name for query in queries() for name in _METRIC.findall(query.expression)}
    left_out = {name for name in _exposed() if name not in shown and not name.endswith(("_count", "_sum"))}
    assert left_out == {
        "aos_gateway_processes",
        "aos_gateway_redis_configured",
        "process_virtual_memory_bytes",
    }


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_alerts_go_by_metrics_that_there_are_and_each_has_its_case() -> None:
    rules = (FOLDER / "alerts.yml").read_text("utf-8")
    cases = (FOLDER / "alerts_test.yml").read_text("utf-8")
    for name in _METRIC.findall(rules):
        assert name in _exposed(), name
    alerts = _ALERT.findall(rules)
    assert len(set(alerts)) == len(alerts) > 0
    for alert in alerts:
        # Silent while all is well, silent too early, firing.
        assert len(re.findall(rf"alertname: {alert}\b", cases)) == 3, alert


def test_the_autoscaler_goes_by_metrics_that_there_are() -> None:
    rules = yaml.safe_load((FOLDER / "adapter.yml").read_text("utf-8"))["rules"]["custom"]
    assert len(rules) == 2
    for rule in rules:
        assert rule["seriesQuery"].partition("{")[0] in _exposed()
