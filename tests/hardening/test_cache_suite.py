"""The rules of RFC 9111 for shared caches, through the real gateway: what came first, what is asked next, hit
or not.

`cache-suite.md` beside this file says which tests of the public suite fail and why the gateway differs where it does.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate

import pytest

from tests.end_to_end.kit import BOB, MovableTime, get, is_hit
from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.client import RawResponse
from tests.testbed.gateway import RunningGateway, running

_Value = str | int
"""A field's value; a number is the HTTP date so many seconds from now."""

_Lines = tuple[tuple[str, _Value], ...]

CALLER = pytest.mark.parametrize("scope", ["caller"])
SHARED = pytest.mark.parametrize("scope", ["shared"])
BOTH = pytest.mark.parametrize("scope", ["caller", "shared"])
CC = "Cache-Control"
CDN = "CDN-Cache-Control"
SURROGATE = "Surrogate-Control"


@dataclass(frozen=True)
class Case:
    """A stored answer and what is asked next.

    Attributes:
        name: what is odd about it.
        origin: fields of the first answer.
        is_hit: the second request does not reach the upstream.
        later_s: how much time passes between the two.
        first: fields of the first request.
        second: fields of the second request.
    """

    name: str
    origin: _Lines
    is_hit: bool
    later_s: float = 0.0
    first: _Lines = ()
    second: _Lines = ()


def _case_names(case: Case) -> str:
    return case.name


def _sent(lines: _Lines) -> list[tuple[str, str]]:
    now_s = time.time()
    return [
        (name, value if isinstance(value, str) else formatdate(now_s + value, usegmt=True))
        for name, value in lines
    ]


def _answer(lines: _Lines, status: int = 200) -> Answer:
    return Answer(status, headers=[("Content-Type", "application/json"), *_sent(lines)], body=record())


@dataclass(frozen=True)
class Stage:
    """A gateway whose clocks move, in front of the scripted AOS.

    Attributes:
        aos: what stands behind it.
        gateway: the gateway.
        time: its clocks.
    """

    aos: ScriptedAos
    gateway: RunningGateway
    time: MovableTime

    async def ask(self, lines: _Lines = (), target: str = TARGET, **more: bytes) -> RawResponse:
        """Ask once more."""
        return await get(self.gateway, target, *_sent(lines), **more)  # type: ignore[arg-type]

    async def twice(self, case: Case) -> RawResponse:
        """Play a case and return the second answer."""
        self.aos.queue(_answer(case.origin))
        self.aos.answer(Answer(503, body=b"second"))
        first = await self.ask(case.first)
        assert (first.status, self.aos.count()) == (200, 1)
        self.time.ahead_s = case.later_s
        return await self.ask(case.second)


@pytest.fixture
async def stage(aos: ScriptedAos, scope: str) -> AsyncIterator[Stage]:
    """A gateway of the test's scope."""
    moving = MovableTime()
    async with running(aos.url, clock=moving.clock, cache__scope=scope) as gateway:
        yield Stage(aos, gateway, moving)


async def _play(stage: Stage, case: Case) -> None:
    second = await stage.twice(case)
    # What is fetched anew passes as it came, an error too: nothing stale is ever served.
    assert (second.status, second.body) == ((200, record()) if case.is_hit else (503, b"second"))
    assert is_hit(second) is case.is_hit
    assert stage.aos.count() == (1 if case.is_hit else 2)


_EXPIRES_2050 = "Thu, 18 Aug 2050 02:01:18 GMT"

FRESHNESS = [
    Case("nothing said", (), True),
    Case("max-age", ((CC, "max-age=100"),), True, 98),
    Case("max-age passed", ((CC, "max-age=100"),), False, 101),
    Case("max-age 0", ((CC, "max-age=0"),), False),
    Case("max-age beyond 31 bits", ((CC, "max-age=2147483648"),), True),
    Case("max-age beyond 32 bits", ((CC, "max-age=99999999999"),), True),
    Case("max-age beyond 64 bits", ((CC, "max-age=" + "9" * 40),), True),
    Case("max-age in any case", ((CC, "MaX-aGe=100"),), True),
    Case("max-age with leading zeros", ((CC, "max-age=00100"),), True, 98),
    Case("max-age quoted", ((CC, 'max-age="100"'),), True, 98),
    Case("max-age quoted, passed", ((CC, 'max-age="100"'),), False, 101),
    Case("max-age in single quotes", ((CC, "max-age='100'"),), False),
    Case("max-age decimal", ((CC, "max-age=100.0"),), False),
    Case("max-age negative", ((CC, "max-age=-100"),), False),
    Case("max-age with a sign", ((CC, "max-age=+100"),), False),
    Case("max-age behind a letter", ((CC, "max-age=a100"),), False),
    Case("max-age before a letter", ((CC, "max-age=100a"),), False),
    Case("max-age without a value", ((CC, "max-age"),), False),
    Case("max-age empty", ((CC, "max-age="),), False),
    Case("blank before the equals sign", ((CC, "max-age =100"),), False),
    Case("blank behind the equals sign", ((CC, "max-age= 100"),), False),
    Case("semicolon behind max-age", ((CC, "max-age=100;"),), False),
    Case("max-age twice, the shorter counts", ((CC, "max-age=100, max-age=5"),), False, 6),
    Case("max-age twice, the other way", ((CC, "max-age=5, max-age=100"),), False, 6),
    Case("max-age on two lines", ((CC, "max-age=100"), (CC, "max-age=5")), False, 6),
    Case("max-age twice, both to come", ((CC, "max-age=100"), (CC, "max-age=50")), True, 40),
    Case("max-age in a quoted string", ((CC, 'x="max-age=100", max-age=5'),), False, 6),
    Case("max-age before a quoted string", ((CC, 'max-age=5, x="max-age=100"'),), False, 6),
    Case("no-store in a quoted string", ((CC, r'x="a\", no-store", max-age=100'),), True),
    Case("empty members", ((CC, " , ,max-age=100,,"),), True),
    Case("an unknown directive", ((CC, "x-own, max-age=100, x-other=1"),), True),
    Case("unreadable", ((CC, "max-age=100, @"),), False),
    Case("s-maxage above a shorter max-age", ((CC, "max-age=1, s-maxage=100"),), True, 50),
    Case("s-maxage above a longer max-age", ((CC, "s-maxage=1, max-age=100"),), False, 2),
    Case("s-maxage 0", ((CC, "s-maxage=0, max-age=100"),), False),
    Case("Age taken off", ((CC, "max-age=100"), ("Age", "50")), True, 48),
    Case("Age taken off, passed", ((CC, "max-age=100"), ("Age", "50")), False, 51),
    Case("Age beyond max-age", ((CC, "max-age=100"), ("Age", "100")), False),
    Case("Age beyond s-maxage", ((CC, "s-maxage=100, max-age=200"), ("Age", "150")), False),
    Case("Age beyond the heuristic", (("Age", "86400"),), False),
    Case("Age within the heuristic", (("Age", "7200"),), True),
    Case("an old Date is no Age", ((CC, "max-age=100"), ("Date", -7200)), True),
    Case("Age of letters", ((CC, "max-age=100"), ("Age", "abc")), False),
    Case("Age negative", ((CC, "max-age=100"), ("Age", "-7200")), False),
    Case("Age decimal", ((CC, "max-age=100"), ("Age", "7200.0")), False),
    Case("Age with a parameter", ((CC, "max-age=100"), ("Age", "0;x=1")), False),
    Case("Age beyond 64 bits", ((CC, "max-age=100"), ("Age", "9" * 40)), False),
    Case("the first of two Ages, old", ((CC, "max-age=100"), ("Age", "7200, 0")), False),
    Case("the first of two Ages, new", ((CC, "max-age=100"), ("Age", "0, 7200")), True),
    Case("the first Age line, old", ((CC, "max-age=100"), ("Age", "7200"), ("Age", "0")), False),
    Case("the first Age line, new", ((CC, "max-age=100"), ("Age", "0"), ("Age", "7200")), True),
    Case("Expires", (("Expires", 100), ("Date", 0)), True, 95),
    Case("Expires passed", (("Expires", 100), ("Date", 0)), False, 101),
    Case("Expires without Date", (("Expires", 100),), True),
    Case("Expires of old", (("Expires", -100), ("Date", 0)), False),
    Case("Expires at Date", (("Expires", 0), ("Date", 0)), False),
    Case("Expires less the Age", (("Expires", 100), ("Date", 0), ("Age", "120")), False),
    Case("Expires counts from Date", (("Expires", 100), ("Date", 80)), False, 30),
    Case("Expires 0", (("Expires", "0"), ("Date", 0)), False),
    Case("Expires empty", (("Expires", ""), ("Date", 0)), False),
    Case("Expires of words", (("Expires", "tomorrow"), ("Date", 0)), False),
    Case("Expires in the form of RFC 850", (("Expires", "Thursday, 18-Aug-50 02:01:18 GMT"),), True),
    Case("Expires in the form of asctime", (("Expires", "Thu Aug 18 02:01:18 2050"),), True),
    Case("Expires in asctime, one digit", (("Expires", "Mon Aug  8 02:01:18 2050"),), True),
    Case("Expires in capitals", (("Expires", _EXPIRES_2050.upper()),), True),
    Case("Expires in UTC", (("Expires", _EXPIRES_2050.replace("GMT", "UTC")),), False),
    Case("Expires in another zone", (("Expires", _EXPIRES_2050.replace("GMT", "AEST")),), False),
    Case("Expires with an offset", (("Expires", _EXPIRES_2050.replace("GMT", "+0000")),), False),
    Case("Expires with a short year", (("Expires", _EXPIRES_2050.replace("2050", "50")),), False),
    Case("Expires without comma", (("Expires", _EXPIRES_2050.replace(",", "")),), False),
    Case("Expires with a short hour", (("Expires", _EXPIRES_2050.replace("02:01", "2:01")),), False),
    Case("Expires twice", (("Expires", 100), ("Expires", 101)), False),
    Case("Expires beside an unreadable Date", (("Expires", 100), ("Date", "today")), False),
    Case("max-age above an old Expires", ((CC, "max-age=100"), ("Expires", -100), ("Date", 0)), True),
    Case("max-age above Expires 0", ((CC, "max-age=100"), ("Expires", "0")), True),
    Case("max-age 0 above Expires", ((CC, "max-age=0"), ("Expires", 100), ("Date", 0)), False),
    Case("s-maxage above Expires", ((CC, "s-maxage=1"), ("Expires", 100), ("Date", 0)), False, 2),
    Case("an unreadable max-age beside Expires", ((CC, "max-age=x"), ("Expires", 100)), False),
    Case("Pragma", (("Pragma", "no-cache"),), False),
    Case("Pragma beside Cache-Control", (("Pragma", "no-cache"), (CC, "max-age=100")), True),
    Case("another Pragma", (("Pragma", "x-own"),), True),
    Case("Last-Modified alone", (("Last-Modified", -3600), ("Date", 0)), True),
]

DIRECTIVES = [
    Case("no-store", ((CC, "no-store"),), False),
    Case("no-store in any case", ((CC, "No-StOrE"),), False),
    Case("no-store beside times", ((CC, "max-age=100, no-store"), ("Expires", 100)), False),
    Case("no-store on a second line", ((CC, "max-age=100"), (CC, "no-store")), False),
    Case("no-store with a value", ((CC, "no-store=x, max-age=100"),), False),
    Case("private", ((CC, "private, max-age=100"),), False),
    Case("private for a field", ((CC, 'private="x-own", max-age=100'),), False),
    Case("no-cache", ((CC, "max-age=100, No-Cache"), ("ETag", '"e"')), False),
    Case("no-cache for a field", ((CC, 'no-cache="x-own", max-age=100'), ("X-Own", "1")), False),
    Case("public", ((CC, "public, max-age=100"),), True),
    Case("must-revalidate, fresh", ((CC, "max-age=100, must-revalidate"), ("ETag", '"e"')), True),
    Case("must-revalidate, over", ((CC, "max-age=1, must-revalidate"), ("ETag", '"e"')), False, 2),
    Case("proxy-revalidate, over", ((CC, "max-age=1, proxy-revalidate"),), False, 2),
    Case("immutable, over", ((CC, "max-age=1, immutable"), ("ETag", '"e"')), False, 2),
    Case("must-understand", ((CC, "must-understand, max-age=100"),), True),
    Case("must-understand with no-store", ((CC, "must-understand, no-store, max-age=100"),), False),
    Case("stale-while-revalidate, over", ((CC, "max-age=1, stale-while-revalidate=99"),), False, 2),
    Case("stale-if-error, over", ((CC, "max-age=1, stale-if-error=99"),), False, 2),
    Case("CDN max-age", ((CDN, "max-age=100"),), True, 98),
    Case("CDN max-age passed", ((CDN, "max-age=100"),), False, 101),
    Case("CDN max-age 0", ((CDN, "max-age=0"), ("Expires", 100)), False),
    Case("CDN max-age less the Age", ((CDN, "max-age=100"), ("Age", "200")), False),
    Case("CDN shorter than Cache-Control", ((CC, "max-age=100"), (CDN, "max-age=1")), False, 2),
    Case("CDN longer than Cache-Control", ((CC, "max-age=1"), (CDN, "max-age=100")), False, 2),
    Case("CDN no-store", ((CC, "max-age=100"), (CDN, "no-store"), ("Expires", 100)), False),
    Case("CDN private", ((CC, "max-age=100"), (CDN, "private")), False),
    Case("CDN no-cache", ((CC, "max-age=100"), (CDN, "no-cache")), False),
    Case("CDN beside no-store", ((CC, "no-store"), (CDN, "max-age=100")), False),
    Case("CDN beside an old Expires", ((CDN, "max-age=100"), ("Expires", -100), ("Date", 0)), False),
    Case("CDN unreadable", ((CC, "max-age=100"), (CDN, "max-age=100, @")), False),
    Case("CDN unreadable beside no-store", ((CC, "no-store"), (CDN, "max-age=100, @")), False),
    Case("CDN with an unknown directive", ((CDN, "x-own, max-age=100"),), True),
    Case("Surrogate-Control no-store", ((SURROGATE, "no-store"),), False),
    Case("Surrogate-Control no-store, CC fresh", ((SURROGATE, "no-store"), (CC, "max-age=100")), False),
    Case("Surrogate-Control shorter", ((SURROGATE, "max-age=1"), (CC, "max-age=100")), False, 2),
    Case("Surrogate-Control for another", ((SURROGATE, "max-age=100;other"),), False),
    Case("Set-Cookie", ((CC, "max-age=100"), ("Set-Cookie", "a=b")), False),
]

_LANGUAGE: _Lines = (("Accept-Language", "en, de"),)

VARY = [
    Case("*", (("Vary", "*"),), False),
    Case("* before a name", (("Vary", "*, Accept"),), False),
    Case("* behind a name", (("Vary", "Accept, *"),), False),
    Case("* on a second line", (("Vary", ""), ("Vary", "*")), False),
    Case("empty", (("Vary", ""),), True),
    Case("outside the variant, equal", (("Vary", "X-Foo"),), False, 0, (("X-Foo", "1"),), (("X-Foo", "1"),)),
    Case("outside the variant, different", (("Vary", "X-Foo"),), False, 0, (("X-Foo", "1"),)),
    Case("the language, equal", (("Vary", "accept-LANGUAGE"),), True, 0, _LANGUAGE, _LANGUAGE),
    Case("the language, absent later", (("Vary", "Accept-Language"),), False, 0, _LANGUAGE),
    Case("the language, absent first", (("Vary", "Accept-Language"),), False, 0, (), _LANGUAGE),
    Case(
        *("the language, another order", (("Vary", "Accept-Language"),), False, 0),
        *(_LANGUAGE, (("Accept-Language", "de, en"),)),
    ),
    Case("two lines, both met", (("Vary", "Accept"), ("Vary", "Accept-Encoding")), True),
    Case("two lines, one not", (("Vary", "Accept"), ("Vary", "User-Agent")), False),
    Case("the coding, another", (("Vary", "Accept-Encoding"),), False, 0, (), (("Accept-Encoding", "gzip"),)),
    Case("the origin, none", (("Vary", "Origin"),), True),
    Case("the origin, sent later", (("Vary", "Origin"),), False, 0, (), (("Origin", "https://a"),)),
    Case("the origin, sent both times", (("Vary", "Origin"),), False, 0, *((("Origin", "https://a"),),) * 2),
    Case("what no request it is looked up for has", (("Vary", "Authorization, Range, Prefer"),), True),
]

_HOUR: _Lines = ((CC, "max-age=3600"),)

REQUESTS = [
    Case("no-cache", _HOUR, False, second=((CC, "No-Cache"),)),
    Case("no-cache on a second line", _HOUR, False, second=((CC, "x"), (CC, "no-cache"))),
    Case("no-store", _HOUR, False, second=((CC, "no-store"),)),
    Case("no-store, first", _HOUR, False, first=((CC, "no-store"),)),
    Case("no-cache, first", _HOUR, True, first=((CC, "no-cache"),)),
    Case("max-age 0", _HOUR, False, second=((CC, "max-age=0"),)),
    Case("max-age 0 quoted", _HOUR, False, second=((CC, 'max-age="0"'),)),
    Case("max-age passed", _HOUR, False, 3, second=((CC, "max-age=1"),)),
    Case("max-age not passed", _HOUR, True, 3, second=((CC, "max-age=10"),)),
    Case("max-age below the Age", (*_HOUR, ("Age", "1800")), False, second=((CC, "max-age=600"),)),
    Case("max-age above the Age", (*_HOUR, ("Age", "1800")), True, second=((CC, "max-age=1900"),)),
    Case("max-age unreadable", _HOUR, False, second=((CC, "max-age=1h"),)),
    Case("min-fresh above what is left", _HOUR, False, second=((CC, "min-fresh=4000"),)),
    Case("min-fresh below what is left", _HOUR, True, second=((CC, "min-fresh=60"),)),
    Case(
        "min-fresh less the Age",
        ((CC, "max-age=200"), ("Age", "150")),
        False,
        second=((CC, "min-fresh=100"),),
    ),
    Case("max-stale, fresh", _HOUR, True, second=((CC, "max-stale=1000"),)),
    Case("max-stale, over", ((CC, "max-age=1"),), False, 2, second=((CC, "max-stale=1000"),)),
    Case("only-if-cached", _HOUR, True, second=((CC, "only-if-cached"),)),
    Case("an unknown directive", _HOUR, True, second=((CC, "x-own"),)),
    Case("unreadable", _HOUR, False, second=((CC, "@"),)),
    Case("Pragma", _HOUR, False, second=(("Pragma", "No-Cache"),)),
    Case("another Pragma", _HOUR, True, second=(("Pragma", "x-own"),)),
    Case("Pragma beside Cache-Control", _HOUR, True, second=(("Pragma", "no-cache"), (CC, "max-age=100"))),
    Case("Authorization", ((CC, "public, max-age=3600"),), False, second=(("Authorization", "x"),)),
    Case("Authorization, first", ((CC, "s-maxage=3600"),), False, first=(("Authorization", "x"),)),
    Case("Range", _HOUR, False, second=(("Range", "bytes=0-1"),)),
    Case("If-Match", (*_HOUR, ("ETag", '"e"')), False, second=(("If-Match", '"e"'),)),
    Case("If-Unmodified-Since", (*_HOUR, ("Last-Modified", 0)), False, second=(("If-Unmodified-Since", 0),)),
    Case("If-Range without Range", (*_HOUR, ("ETag", '"e"')), True, second=(("If-Range", '"e"'),)),
]


@SHARED
@pytest.mark.parametrize("case", FRESHNESS, ids=_case_names)
async def test_a_record_is_a_hit_only_while_the_origin_calls_it_fresh(stage: Stage, case: Case) -> None:
    await _play(stage, case)


@CALLER
@pytest.mark.parametrize("case", DIRECTIVES, ids=_case_names)
async def test_what_the_origin_forbids_is_not_stored(stage: Stage, case: Case) -> None:
    await _play(stage, case)


@BOTH
@pytest.mark.parametrize("case", VARY, ids=_case_names)
async def test_a_record_is_a_hit_only_for_what_it_varies_on(stage: Stage, case: Case) -> None:
    await _play(stage, case)


@CALLER
@pytest.mark.parametrize("case", REQUESTS, ids=_case_names)
async def test_what_a_caller_asks_of_the_cache_is_obeyed(stage: Stage, case: Case) -> None:
    await _play(stage, case)


@SHARED
@pytest.mark.parametrize("status", [201, 203, 206, 299, 301, 304, 404, 410, 500, 503, 599])
async def test_only_a_200_is_stored_however_fresh_it_is_called(stage: Stage, status: int) -> None:
    body = b"" if status == 304 else record()
    fields = [("Cache-Control", "public, max-age=3600")]
    stage.aos.answer(Answer(status, headers=fields, body=body, framing="none" if status == 304 else "length"))
    for _ in range(2):
        assert (await stage.ask()).status == status
    assert stage.aos.count() == 2


@pytest.mark.parametrize(("scope", "fetches"), [("caller", 2), ("shared", 1)])
@pytest.mark.parametrize("how", ["another token", "a cookie"])
async def test_what_one_caller_fetched_is_a_hit_for_another_in_shared_scope_alone(
    stage: Stage, how: str, fetches: int
) -> None:
    stage.aos.answer(_answer(_HOUR))
    await stage.ask()
    if how == "another token":
        await stage.ask(token=BOB)
    else:
        await stage.ask((("Cookie", "a=b"),))
    assert stage.aos.count() == fetches


@BOTH
async def test_another_query_is_another_record(stage: Stage) -> None:
    stage.aos.answer(_answer(_HOUR))
    for target in (TARGET, f"{TARGET}?a=1", f"{TARGET}?a=2", f"{TARGET}?a=1"):
        await stage.ask(target=target)
    assert stage.aos.count() == 4


@dataclass(frozen=True)
class Condition:
    """A conditional request for a stored record.

    Attributes:
        name: what is odd about it.
        origin: fields of the stored answer.
        second: fields of the conditional request.
        status: what it is answered with, from the entry.
    """

    name: str
    origin: _Lines
    second: _Lines
    status: int


_ETAG: _Lines = (("ETag", '"abc"'),)
_WEAK: _Lines = (("ETag", 'W/"abc"'),)
_MODIFIED: _Lines = (("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),)
_NONE_MATCH = "If-None-Match"
_SINCE = "If-Modified-Since"

CONDITIONS = [
    Condition("a strong tag", _ETAG, ((_NONE_MATCH, '"abc"'),), 304),
    Condition("a weak tag", _WEAK, ((_NONE_MATCH, 'W/"abc"'),), 304),
    Condition("weak against strong", _ETAG, ((_NONE_MATCH, 'W/"abc"'),), 304),
    Condition("strong against weak", _WEAK, ((_NONE_MATCH, '"abc"'),), 304),
    Condition("a list", _ETAG, ((_NONE_MATCH, '"a,", W/"b" , "abc"'),), 304),
    Condition("two lines", _ETAG, ((_NONE_MATCH, '"a"'), (_NONE_MATCH, '"abc"')), 304),
    Condition("any", _ETAG, ((_NONE_MATCH, "*"),), 304),
    Condition("octets beyond ASCII", (("ETag", '"abc\xfc"'),), ((_NONE_MATCH, '"abc\xfc"'),), 304),
    Condition("another tag", _ETAG, ((_NONE_MATCH, '"abd"'),), 200),
    Condition("another case", _ETAG, ((_NONE_MATCH, '"ABC"'),), 200),
    Condition("no quotes", _ETAG, ((_NONE_MATCH, "abc"),), 200),
    Condition("no quotes on either side", (("ETag", "abc"),), ((_NONE_MATCH, "abc"),), 200),
    Condition("a small w", _WEAK, ((_NONE_MATCH, 'w/"abc"'),), 200),
    Condition("modified then", _MODIFIED, ((_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT"),), 304),
    Condition("modified before", _MODIFIED, ((_SINCE, 0),), 304),
    Condition("modified since", _MODIFIED, ((_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT"),), 200),
    Condition("in the form of RFC 850", _MODIFIED, ((_SINCE, "Sunday, 06-Nov-94 08:49:37 GMT"),), 304),
    Condition("in the form of asctime", _MODIFIED, ((_SINCE, "Sun Nov  6 08:49:37 1994"),), 304),
    Condition("no date", _MODIFIED, ((_SINCE, "0"),), 200),
    Condition("two dates", _MODIFIED, ((_SINCE, 0), (_SINCE, 0)), 200),
    Condition("no Last-Modified", (("Date", -60),), ((_SINCE, 0),), 200),
    Condition("a tag stands above a date", (*_ETAG, *_MODIFIED), ((_NONE_MATCH, '"x"'), (_SINCE, 0)), 200),
    Condition(
        "a tag that fits stands above a date",
        (*_ETAG, *_MODIFIED),
        ((_NONE_MATCH, '"abc"'), (_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT")),
        304,
    ),
]


@CALLER
@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
async def test_conditions_are_answered_from_the_entry_and_from_the_fetch_alike(
    stage: Stage, condition: Condition
) -> None:
    stage.aos.answer(_answer((*condition.origin, *_HOUR)))
    fetched = await stage.ask(condition.second)
    hit = await stage.ask(condition.second)
    assert (fetched.status, hit.status) == (condition.status, condition.status)
    assert not is_hit(fetched)
    assert is_hit(hit)
    (received,) = stage.aos.received
    assert not received.all(_NONE_MATCH)
    assert not received.all(_SINCE)


@CALLER
async def test_a_304_carries_what_a_cache_further_down_needs_and_nothing_of_the_body(stage: Stage) -> None:
    sent: _Lines = (
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("ETag", '"abc"'),
        ("Cache-Control", "max-age=3600"),
        ("cache-control", "public"),
        ("Content-Location", "/x"),
        ("Expires", "Fri, 18 Aug 2050 02:01:18 GMT"),
        ("Vary", "Accept"),
        ("Age", "30"),
    )
    stage.aos.answer(_answer((*sent, *_MODIFIED, ("X-Own", "1"))))
    fetched = await stage.ask(((_NONE_MATCH, '"abc"'),))
    stage.time.ahead_s = 5
    hit = await stage.ask(((_NONE_MATCH, '"abc"'),))
    own = ["Via", "Cache-Status"]
    assert [name.decode() for name in fetched.names()] == [*(name for name, _ in sent), *own]
    assert [name.decode() for name in hit.names()] == [
        *(name for name, _ in sent if name != "Age"),
        *("Age", "X-Request-Id", *own),
    ]
    assert (fetched.get("age"), hit.get("age")) == (b"30", b"35")
    assert fetched.body == hit.body == b""


@CALLER
async def test_a_hit_keeps_every_field_but_those_of_one_hop_and_renews_the_age(stage: Stage) -> None:
    kept: _Lines = (
        ("X-Own", "1"),
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("x-own", "2"),
        ("Content-Location", "/x"),
        ("Content-Foo", "\xfc"),
        ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Content-Security-Policy", "default-src 'self'"),
        ("Clear-Site-Data", '"cache"'),
        ("Set-Cookie2", "a=b"),
        ("Warning", '110 - "x"'),
    )
    hop: _Lines = (
        ("Connection", "X-Hop, keep-alive"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "x"),
        ("Proxy-Authentication-Info", "x"),
        ("Proxy-Connection", "x"),
        ("TE", "x"),
        ("Upgrade", "x"),
    )
    stage.aos.answer(_answer((*kept, *hop, ("Age", "30"), ("Age", "99"))))
    first = await stage.ask()
    stage.time.ahead_s = 3.5
    second = await stage.ask()
    assert is_hit(second)
    names = {name.lower() for name, _ in (*kept, *hop)} - {"connection"}
    for answer in (first, second):
        found = [
            (name.decode(), value.decode("latin-1"))
            for name, value in answer.headers
            if name.decode().lower() in names
        ]
        assert found == list(kept)
    assert second.all("age") == [b"33"]


@CALLER
async def test_without_a_date_from_the_origin_the_age_counts_from_the_fetch(stage: Stage) -> None:
    stage.aos.answer(_answer(_HOUR))
    first = await stage.ask()
    stage.time.ahead_s = 7.5
    hit = await stage.ask()
    assert (first.get("age"), hit.get("age")) == (None, b"7")
    # The head is the origin's: no Date is made up.
    assert (first.get("date"), hit.get("date")) == (None, None)


@BOTH
@pytest.mark.parametrize(
    ("method", "status", "fetches"),
    [
        *(("POST", 200, 2), ("PUT", 201, 2), ("M-SEARCH", 302, 2), ("DELETE", 500, 2)),
        *(("PATCH", 400, 1), ("DELETE", 404, 1), ("PUT", 409, 1)),
    ],
)
async def test_a_write_that_was_not_refused_makes_the_record_unusable(
    stage: Stage, method: str, status: int, fetches: int
) -> None:
    stage.aos.on("GET", TARGET, _answer(_HOUR))
    stage.aos.on(method, TARGET, Answer(status, body=b"{}"))
    await stage.ask()
    assert (await get(stage.gateway, method=method, body=b"{}")).status == status
    await stage.ask()
    assert stage.aos.count("GET") == fetches


@BOTH
async def test_a_head_is_answered_from_an_entry_until_it_is_over(stage: Stage) -> None:
    stage.aos.answer(_answer(((CC, "max-age=10"), ("X-Own", "1"))))
    await stage.ask()
    hit = await get(stage.gateway, method="HEAD")
    assert (hit.status, hit.body, hit.get("x-own")) == (200, b"", b"1")
    assert is_hit(hit)
    stage.time.ahead_s = 11
    assert not is_hit(await get(stage.gateway, method="HEAD"))
    assert [received.method for received in stage.aos.received] == ["GET", "HEAD"]
