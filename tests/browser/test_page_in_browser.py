"""The page as a person sees it: in a real Chromium, before a real gateway, Redis and simulated AOS."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser.place import TOKEN, Place
from tests.testbed.redis_cluster import RedisCluster
from tests.testbed.webdriver import Browser, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]

_TAB, _ENTER = "\ue004", "\ue007"
_WIDE, _NARROW = 1200, 360
# How soon an outage has to show, and to be over here when it is over there.
_SOON_S = 5.0
_CONTRAST = Path(__file__).with_name("contrast.js").read_text("utf-8")
# Shows the page so many states, with the longest ids there are and other executions each time.
_SHOW_MORE = """
return fetch('/status').then((answer) => answer.json()).then((status) => {
  status.upstream_url = 'https://' + 'a'.repeat(250);
  for (let turn = 0; turn < arguments[0]; turn++) {
    const id = (index) => String(turn * 3 + index).padEnd(64, 'x');
    status.executions = [...Array(10).keys()].map((index) => (
      { stack_id: id(index), action_id: id(index), phase: 'ForceCancelled'.padEnd(40, 'x'),
        progress: turn % 100, fetches: 1e9, hits: 1e9 + turn, age_s: turn % 300 }));
    status.reasons = [{ reason: 'unreadable-freshness', text: 'y'.repeat(100), count: 1e9 + turn }];
    status.throttled = [...Array(10).keys()].map((index) => (
      { caller: index ? id(index).slice(0, 10) : '', upstream: 1e9, here: 1e9 + turn, age_s: turn % 300 }));
    status.hit_ratio_detail = 'most: ' + 'y'.repeat(100);
    status.running_detail = 'y'.repeat(100);
    status.gauges.waiting_callers_limit = 1e9;
    status.redis_nodes = [...Array(99).keys()].map((index) => [id(index) + id(index) + ':6379', index % 2]);
    status.leases = { led: 1e9, followed: 1e9, void: 1e9, waited: 1e9 + turn };
    status.now.per_s = turn;
    show(status);
  }
});
"""
_WITH_HITS = """
const count = (cell) => parseInt(cell.textContent);
return [...document.querySelectorAll('#executions tbody tr')].some(
  ({ cells }) => cells.length === 7 && count(cells[4]) > count(cells[5]));
"""
_CALLERS = "return document.querySelector('#callers tbody').textContent"
# Where to leave pictures for people to look at; none are made without.
_SHOTS = os.environ.get("PAGE_SHOTS")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The gateway and what it depends on."""
    with Place() as place:
        yield place


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(place: Place, chromium: Browser) -> Iterator[Browser]:
    """A wide light window with the page, filled; its requests and console are checked afterwards."""
    chromium.look(_WIDE)
    # A new browser's first page makes requests of its own.
    chromium.open("about:blank")
    chromium.complaints()
    chromium.requested()
    chromium.open(place.page)
    until(lambda: _level(chromium) != "wait" and chromium.text("#config-box") != "", _SOON_S)
    yield chromium
    assert chromium.complaints() == []
    own = urlsplit(place.page).netloc
    asked = {urlsplit(url).netloc for url in chromium.requested()}
    assert asked == {own}
    chromium.open("about:blank")


def _level(browser: Browser) -> str:
    return str(browser.run("return document.getElementById('banner').dataset.level"))


def _stop_polling(browser: Browser) -> None:
    """Have no more polls replace what is shown."""
    browser.run("update = () => {}; clearTimeout(timer);")
    until(lambda: not browser.run("return isUpdating"), _SOON_S)


def _shoot(browser: Browser, name: str) -> None:
    if _SHOTS:
        browser.shot(Path(_SHOTS) / f"{name}.png")


def _shoot_all(browser: Browser, name: str) -> None:
    for width, dark, what in ((_WIDE, False, "wide"), (_NARROW, False, "narrow"), (_WIDE, True, "dark")):
        browser.look(width, dark=dark)
        _shoot(browser, f"{name}-{what}")
    browser.look(_WIDE)


def test_an_idle_gateway_is_well(browser: Browser) -> None:
    assert (_level(browser), browser.text("#headline")) == ("ok", "All is well.")
    assert browser.text("#ratio") == "–"
    _shoot_all(browser, "idle")


def test_the_figures_change_while_load_runs(place: Place, browser: Browser) -> None:
    with place.load():
        until(lambda: float(browser.text("#per-s")) > 1, _SOON_S)
        first = browser.text("#per-s-detail")
        until(lambda: browser.text("#per-s-detail") != first, _SOON_S)
        until(lambda: browser.text("#ratio").endswith("%") and float(browser.text("#saved")) > 0, 15.0)
        until(lambda: "Succeeded" in browser.text("#executions"), 15.0)
        until(lambda: browser.run(_WITH_HITS), 15.0)
        until(lambda: "phase" in browser.text("#reasons"), _SOON_S)
        until(lambda: "cache.ttl_running_s = 1 would spare" in browser.text("#running-detail"), _SOON_S)
        assert browser.run("return document.querySelectorAll('#chart rect').length") > 0
        assert (_level(browser), browser.text("#headline")) == ("ok", "All is well.")
        _shoot_all(browser, "load")


def test_callers_who_wait_show_and_how_their_waits_end(place: Place, browser: Browser) -> None:
    until(lambda: "0 of at most 10000" in browser.text("#inside").replace(",", ""), _SOON_S)
    waiting = [place.wait() for _ in range(2)]
    until(lambda: "2 of at most " in browser.text("#inside"), _SOON_S)
    for one in waiting:
        one.join()
    until(lambda: "2 woken, 0 timed out" in browser.text("#inside"), _SOON_S)
    assert "0 of at most " in browser.text("#inside")


def test_an_outage_of_redis_shows_at_once_and_clears_when_it_is_over(place: Place, browser: Browser) -> None:
    with place.load():
        until(lambda: float(browser.text("#per-s")) > 1, _SOON_S)
        place.redis.kill()
        try:
            until(lambda: _level(browser) == "warn" and "Redis" in browser.text("#headline"), _SOON_S)
            _shoot_all(browser, "redis-outage")
        finally:
            place.redis.start()
        until(lambda: _level(browser) == "ok", _SOON_S)


def test_an_outage_of_the_upstream_shows_at_once_and_clears_when_it_is_over(
    place: Place, browser: Browser
) -> None:
    with place.load():
        until(lambda: float(browser.text("#per-s")) > 1, _SOON_S)
        place.stop_twin()
        try:
            until(
                lambda: _level(browser) == "bad" and "can't be reached" in browser.text("#headline"), _SOON_S
            )
            _shoot_all(browser, "upstream-outage")
        finally:
            place.start_twin()
        until(lambda: _level(browser) == "ok", _SOON_S)


def test_an_upstream_with_errors_is_distinguished_from_one_that_is_down(
    place: Place, browser: Browser
) -> None:
    with place.load():
        until(lambda: float(browser.text("#per-s")) > 1, _SOON_S)
        place.order({"kind": "status", "status": 503})
        try:
            until(lambda: _level(browser) == "bad" and "5xx" in browser.text("#headline"), _SOON_S)
        finally:
            place.order(None)
        until(lambda: _level(browser) == "ok", _SOON_S)


def test_throttling_shows_with_the_most_throttled_callers_and_clears_when_it_is_over(
    place: Place, browser: Browser
) -> None:
    with place.load():
        until(lambda: float(browser.text("#per-s")) > 1, _SOON_S)
        assert browser.run("return document.getElementById('throttling').hidden")
        place.order({"kind": "rate_limited", "retry_after_s": 1})
        try:
            until(lambda: _level(browser) in {"warn", "bad"}, 2 * _SOON_S)
            assert "AOS throttles callers" in browser.text("#headline")
            until(lambda: float(browser.text("#throttled").replace(",", "")) > 10, _SOON_S)
            until(lambda: browser.run(_CALLERS).count("×") == 2, _SOON_S)
            assert "throttling" in browser.text("#parts")
            _shoot_all(browser, "throttled")
        finally:
            place.order(None)
        until(lambda: _level(browser) == "ok", 25.0)


def test_an_upstream_that_says_nothing_shows(place: Place, browser: Browser) -> None:
    with place.load(), place.load():
        until(lambda: float(browser.text("#per-s")) > 1, _SOON_S)
        place.order({"kind": "latency", "delay_s": 20})
        try:
            until(lambda: "has not answered" in browser.text("#headline"), 2 * _SOON_S)
        finally:
            place.order(None)
            # It ends those that wait, too.
            place.stop_twin()
            place.start_twin()
        until(lambda: _level(browser) == "ok", 2 * _SOON_S)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read(place: Place, browser: Browser, *, dark: bool) -> None:
    with place.load():
        until(lambda: float(browser.text("#per-s")) > 1, _SOON_S)
        browser.look(_WIDE, dark=dark)
        browser.run("document.getElementById('config-box').open = true")
        browser.run("document.querySelector('.skip').focus()")
        for level in ("ok", "warn", "bad", "wait"):
            shown = f"banner('{level}', 'Something.', 'Something.', ['More.']); put(at('age'), 'Old.');"
            assert browser.run(shown + _CONTRAST) == []


def test_nothing_scrolls_sideways_however_long_ids_and_values_are(browser: Browser) -> None:
    browser.run("document.getElementById('config-box').open = true")
    _stop_polling(browser)
    browser.run(_SHOW_MORE, 1)
    browser.run("put(at('config'), JSON.stringify({ upstream: { url: 'x'.repeat(400) } }, null, 2));")
    assert browser.text("#ratio-detail").startswith("of execution calls served from the cache; most: yyy")
    for width in (_NARROW, 320, 700, 840, _WIDE):
        browser.look(width)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run("return document.body.scrollWidth") <= width
        cut = "return [...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1"
        cut += " && e.clientWidth && getComputedStyle(e).display !== 'inline').map(e => e.id || e.tagName)"
        assert browser.run(cut) == []
    _shoot_all(browser, "long")


def test_half_an_hour_of_looking_takes_no_more_memory_than_a_moment(browser: Browser) -> None:
    _stop_polling(browser)
    browser.run(_SHOW_MORE, 60)
    elements = browser.run("return document.getElementsByTagName('*').length")
    heap_bytes = browser.heap_bytes()
    browser.run(_SHOW_MORE, 1800)
    assert browser.run("return document.getElementsByTagName('*').length") == elements
    assert browser.heap_bytes() < heap_bytes + 500_000


def test_selected_text_stays_selected(place: Place, browser: Browser) -> None:
    with place.load():
        until(lambda: "×" in browser.text("#executions"), 15.0)
    chosen = browser.run(
        "const code = document.querySelector('#executions code'); getSelection().selectAllChildren(code);"
        "return code.textContent"
    )
    # Shown anew each second.
    browser.run("window.shown = 0; const before = show; show = (status) => { before(status); shown++; };")
    until(lambda: browser.run("return shown") > 1, _SOON_S)
    assert browser.run("return getSelection().toString()") == chosen


def test_a_page_left_open_says_that_the_gateway_stops_and_goes_on_when_it_is_back(
    place: Place, browser: Browser
) -> None:
    place.order({"kind": "latency", "delay_s": 3})
    held = place.hold()
    until(lambda: "1 connection in use" in browser.text("#parts"), _SOON_S)
    place.stop_gateway()
    until(lambda: "is stopping" in browser.text("#headline"), _SOON_S)
    _shoot_all(browser, "draining")
    until(lambda: "does not answer" in browser.text("#headline"), 2 * _SOON_S)
    until(lambda: "s old" in browser.text("#age"), _SOON_S)
    assert "What to do" in browser.text("#todo")
    _shoot_all(browser, "gone")
    place.wait_stopped()
    held.join()
    place.order(None)
    place.start_gateway()
    until(lambda: _level(browser) == "ok", _SOON_S)
    assert browser.text("#age") == ""
    # The browser's own line for each refused connection.
    assert [
        one for one in browser.complaints() if "ERR_CONNECTION" not in one and "ERR_EMPTY" not in one
    ] == []


def test_a_worker_that_is_killed_shows_and_that_it_was_replaced(chromium: Browser) -> None:
    with Place(workers=2) as place:
        chromium.look(_WIDE)
        chromium.open(place.page)
        until(lambda: _level(chromium) == "ok", _SOON_S)
        assert "2 processes" in chromium.text("#about")
        place.kill_worker()
        until(lambda: "1 worker ended and was replaced" in chromium.text("#headline"), 2 * _SOON_S)
        until(lambda: chromium.text("#inside").count("\nready") == 2, 2 * _SOON_S)
        assert _level(chromium) == "warn"
        _shoot_all(chromium, "replaced")
        assert chromium.complaints() == []
        chromium.open("about:blank")


def test_each_primary_of_a_cluster_shows_and_that_one_which_is_gone_stops_none_of_the_others(
    chromium: Browser,
) -> None:
    with RedisCluster(replicas=False) as cluster, Place(workers=2, redis_url=cluster.url) as place:
        chromium.look(_WIDE)
        chromium.open(place.page)
        for node in cluster.nodes:
            until(lambda node=node: f"Primary {node.address}: up" in chromium.text("#parts"), _SOON_S)  # type: ignore[misc]
        waiting = place.wait()
        until(lambda: re.search(r"\b[1-9]\d* led, 0 followed", chromium.text("#inside")), 2 * _SOON_S)
        waiting.join()
        assert (_level(chromium), chromium.text("#headline")) == ("ok", "All is well.")
        dead, *others = cluster.nodes
        dead.kill()
        until(
            lambda: "1 of 3 Redis primaries does not answer" in chromium.text("#headline"),
            2 * _SOON_S,
        )
        assert f"Primary {dead.address}: down, not used" in chromium.text("#parts")
        for node in others:
            assert f"Primary {node.address}: up" in chromium.text("#parts")
        assert _level(chromium) == "warn"
        _shoot_all(chromium, "cluster")
        assert chromium.complaints() == []
        chromium.open("about:blank")


def test_iam_shows_where_it_is_asked_and_that_its_outage_fails_nothing(chromium: Browser) -> None:
    with Place(by_user=True) as place:
        chromium.look(_WIDE)
        chromium.open(place.page)
        until(lambda: "IAM was not asked" in chromium.text("#parts"), _SOON_S)
        place.run(TOKEN)
        until(lambda: "1 known token" in chromium.text("#parts"), _SOON_S)
        assert (_level(chromium), chromium.text("#headline")) == ("ok", "All is well.")
        place.order({"kind": "status", "status": 503, "shape": "iam", "path": "/v3/*"})

        def is_shown() -> bool:
            place.run(f"{TOKEN}:{time.monotonic_ns()}")
            said = "The last questions to IAM failed (unusable)" in chromium.text("#headline")
            return said and _level(chromium) == "warn"

        # After a step of the timeline.
        until(is_shown, 3 * _SOON_S)
        _shoot_all(chromium, "iam-outage")
        place.order(None)
        assert chromium.complaints() == []
        chromium.open("about:blank")


def test_the_keyboard_reaches_everything(browser: Browser) -> None:
    focused = "return document.activeElement.className || document.activeElement.tagName"
    outlined = "return getComputedStyle(document.activeElement).outlineStyle"
    browser.press(_TAB)
    assert (browser.run(focused), browser.run(outlined)) == ("skip", "solid")
    browser.press(_ENTER)
    assert browser.run("return document.activeElement.id") == "main"
    browser.press(_TAB)
    assert (browser.run(focused), browser.run(outlined)) == ("SUMMARY", "solid")
    browser.press(_ENTER)
    assert '"access_ttl_s": ' in browser.text("#config")
    browser.press(_TAB)
    assert (browser.run(focused), browser.run(outlined)) == ("PRE", "solid")
    browser.press(_TAB)
    assert browser.run("return document.activeElement.getAttribute('href')") == "/metrics"
