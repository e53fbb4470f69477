"""The page as a person sees it: in a real Chromium, before a real gateway, Redis and simulated AOS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser.place import Place
from tests.support.webdriver import Browser, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(90)]

_TAB, _ENTER = "\ue004", "\ue007"
_WIDE, _NARROW = 1200, 360
# How soon an outage has to show, and to be over here when it is over there.
_SOON_S = 5.0
_CONTRAST = Path(__file__).with_name("contrast.js").read_text("utf-8")
# Where to leave pictures for people to look at; none are made without.
_SHOTS = os.environ.get("PAGE_SHOTS")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The gateway and what it depends on."""
    with Place() as place:
        yield place


@pytest.fixture(scope="module")
def _chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(place: Place, _chromium: Browser) -> Iterator[Browser]:
    """A wide light window with the page, filled; what it asked for and complained of is judged afterwards."""
    _chromium.look(_WIDE)
    _chromium.complaints()
    _chromium.requested()
    _chromium.open(place.page)
    until(lambda: _level(_chromium) != "wait" and _chromium.text("#config-box") != "", _SOON_S)
    yield _chromium
    assert _chromium.complaints() == []
    own = urlsplit(place.page).netloc
    asked = {urlsplit(url).netloc for url in _chromium.requested()}
    assert asked == {own}
    _chromium.open("about:blank")


def _level(browser: Browser) -> str:
    return str(browser.run("return document.getElementById('banner').dataset.level"))


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
        first = browser.text("#per-s-note")
        until(lambda: browser.text("#per-s-note") != first, _SOON_S)
        until(lambda: browser.text("#ratio").endswith("%") and float(browser.text("#saved")) > 0, 15.0)
        until(lambda: "Succeeded" in browser.text("#executions"), 15.0)
        until(lambda: "phase" in browser.text("#reasons"), _SOON_S)
        assert browser.run("return document.querySelectorAll('#chart rect').length") > 0
        assert (_level(browser), browser.text("#headline")) == ("ok", "All is well.")
        _shoot_all(browser, "load")


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


def test_an_upstream_that_answers_with_errors_is_told_from_one_that_is_gone(
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
            assert (
                browser.run(f"document.getElementById('banner').dataset.level = '{level}';" + _CONTRAST) == []
            )


@pytest.mark.parametrize("width", [_NARROW, 320, 700, _WIDE])
def test_nothing_scrolls_sideways(place: Place, browser: Browser, width: int) -> None:
    with place.load():
        until(lambda: "×" in browser.text("#executions"), 15.0)
        browser.look(width)
        browser.run("document.getElementById('config-box').open = true")
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run("return document.body.scrollWidth") <= width


def test_the_keyboard_reaches_everything(browser: Browser) -> None:
    focused = "return document.activeElement.className || document.activeElement.tagName"
    browser.press(_TAB)
    assert browser.run(focused) == "skip"
    browser.press(_ENTER)
    assert browser.run("return document.activeElement.id") == "main"
    browser.press(_TAB)
    assert browser.run(focused) == "SUMMARY"
    browser.press(_ENTER)
    assert '"access_ttl_s": ' in browser.text("#config")
    browser.press(_TAB)
    assert browser.run(focused) == "PRE"
    browser.press(_TAB)
    assert browser.run("return document.activeElement.getAttribute('href')") == "/metrics"
