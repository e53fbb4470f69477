"""What callers ask of the cache: conditions, directives, HEAD, and requests it takes no part in."""

import re

import pytest

from tests.testbed.aos import TARGET, Answer, ScriptedAos, record
from tests.testbed.gateway import RunningGateway, running

from .kit import OTHER_ROUTE, MovableTime, cache_status, get, is_hit, running_record, settled

_STORED = "aos-gateway; fwd=uri-miss; fwd-status=200; stored"


_HIT = re.compile(r"aos-gateway; hit; ttl=(\d+)")


async def test_a_record_without_etag_gets_a_strong_one_from_its_bytes(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(running_record())
    tags = [(await get(gateway)).get("etag") for _ in range(2)]
    aos.answer(settled())
    tags += [(await get(gateway)).get("etag") for _ in range(2)]
    assert all(tag is not None and re.fullmatch(rb'"[\x21\x23-\x7e]+"', tag) for tag in tags)
    assert tags[0] == tags[1] != tags[2] == tags[3]


async def test_the_upstreams_own_etag_stays(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled(("ETag", 'W/"own"')))
    assert [(await get(gateway)).all("etag") for _ in range(2)] == [[b'W/"own"']] * 2


@pytest.mark.parametrize("target", [OTHER_ROUTE, TARGET + "?"])
async def test_other_answers_get_no_etag(aos: ScriptedAos, gateway: RunningGateway, target: str) -> None:
    aos.answer(Answer(body=record()))
    assert (await get(gateway, target)).get("etag") is None
    aos.answer(Answer(404, body=record()))
    assert (await get(gateway)).get("etag") is None


@pytest.mark.parametrize("own", ['"own"', 'W/"own"'])
@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"a", W/"own" , "b"', 304),
        ("*", 304),
        ('"other"', 200),
    ],
)
async def test_if_none_match_is_answered_from_entry_and_from_fetch(
    aos: ScriptedAos, gateway: RunningGateway, own: str, condition: str, status: int
) -> None:
    aos.answer(settled(("ETag", own), ("X-Old", "1"), ("Vary", "Accept")))
    fetched = await get(gateway, TARGET, ("If-None-Match", condition))
    hit = await get(gateway, TARGET, ("If-None-Match", condition), ("X-Request-Id", "mine"))
    assert [fetched.status, hit.status] == [status, status]
    assert is_hit(hit)
    assert hit.get("etag") == own.encode()
    assert hit.get("vary") == b"Accept"
    assert hit.get("x-request-id") == b"mine"
    if status == 304:
        assert fetched.reason == hit.reason == b"Not Modified"
        for name in ("content-length", "content-type", "transfer-encoding"):
            assert fetched.get(name) is hit.get(name) is None
        assert fetched.body == hit.body == b""
    assert aos.received[0].get("if-none-match") is None


async def test_several_if_none_match_lines_count_as_one_list(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(settled(("ETag", '"b"')))
    answer = await get(gateway, TARGET, ("If-None-Match", '"a"'), ("If-None-Match", '"b"'))
    assert answer.status == 304


async def test_an_error_is_not_made_a_304(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer(404, headers=[("ETag", '"x"')], body=b"gone"))
    assert (await get(gateway, TARGET, ("If-None-Match", "*"))).status == 404


async def test_the_fetch_is_unconditional(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled())
    fields = [
        ("If-None-Match", '"x"'),
        ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("If-Range", '"x"'),
        ("Prefer", "wait=10"),
        ("Accept-Encoding", "br, deflate"),
    ]
    await get(gateway, TARGET, *fields)
    (received,) = aos.received
    assert not {name.lower() for name, _ in fields if name != "Accept-Encoding"} & {
        name.decode().lower() for name in received.names()
    }
    assert received.all("accept-encoding") == [b"identity"]


async def test_a_head_is_answered_from_an_entry(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer(chunks=[record()], framing="chunked"))
    await get(gateway)
    head = await get(gateway, method="HEAD")
    assert is_hit(head)
    assert head.get("content-length") == b"%d" % len(record())
    assert head.body == b""
    tag = head.get("etag")
    assert tag is not None
    assert (await get(gateway, TARGET, ("If-None-Match", tag), method="HEAD")).status == 304
    assert aos.count() == 1


async def test_a_head_without_entry_is_forwarded_and_stores_nothing(
    aos: ScriptedAos, gateway: RunningGateway
) -> None:
    aos.answer(settled())
    head = await get(gateway, method="HEAD")
    assert cache_status(head) == "aos-gateway; fwd=uri-miss; fwd-status=200; detail=head"
    assert head.get("content-length") == b"%d" % len(record())
    assert not is_hit(await get(gateway))
    assert [received.method for received in aos.received] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    "directive",
    [("Cache-Control", "no-cache"), ("Cache-Control", "max-age=nonsense"), ("Pragma", "no-cache")],
)
async def test_a_no_cache_fetches_anew_and_stores(
    aos: ScriptedAos, gateway: RunningGateway, directive: tuple[str, str]
) -> None:
    aos.queue(settled(("X-Number", "1")), settled(("X-Number", "2")))
    await get(gateway)
    anew = await get(gateway, TARGET, directive)
    assert anew.get("x-number") == b"2"
    assert cache_status(anew) == "aos-gateway; fwd=request; fwd-status=200; stored; detail=request-no-cache"
    assert (await get(gateway)).get("x-number") == b"2"
    assert aos.received[-1].get(directive[0]) == directive[1].encode()


async def test_pragma_does_not_count_beside_cache_control(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled())
    await get(gateway)
    assert is_hit(await get(gateway, TARGET, ("Pragma", "no-cache"), ("Cache-Control", "max-age=100")))


async def test_a_no_store_neither_reads_nor_writes(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(settled())
    directive = ("Cache-Control", "no-store")
    expected = "aos-gateway; fwd=request; fwd-status=200; detail=request-no-store"
    assert cache_status(await get(gateway, TARGET, directive)) == expected
    assert cache_status(await get(gateway)) == _STORED
    assert cache_status(await get(gateway, TARGET, directive)) == expected
    assert is_hit(await get(gateway))


async def test_max_age_and_min_fresh_are_obeyed_and_max_stale_ignored(aos: ScriptedAos) -> None:
    time = MovableTime()
    aos.answer(settled())
    async with running(aos.url, clock=time.clock) as gateway:

        async def status_with(directive: str) -> str:
            return cache_status(await get(gateway, TARGET, ("Cache-Control", directive)))

        await get(gateway)
        time.ahead_s = 100
        assert _HIT.fullmatch(await status_with("max-age=150"))
        assert _HIT.fullmatch(await status_with("min-fresh=150, max-stale"))
        expected = "aos-gateway; fwd=request; fwd-status=200; stored; detail=request-"
        assert await status_with("max-age=50") == expected + "max-age"
        assert _HIT.fullmatch(await status_with("max-age=50"))
        time.ahead_s = 250
        assert await status_with("min-fresh=200") == expected + "min-fresh"
        time.ahead_s = 600
        assert await status_with("max-stale=10000") == _STORED


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_only_if_cached_never_goes_upstream(
    aos: ScriptedAos, gateway: RunningGateway, method: str
) -> None:
    directive = ("Cache-Control", "only-if-cached")
    for target in (TARGET, OTHER_ROUTE, TARGET + "?x"):
        answer = await get(gateway, target, directive, method=method)
        assert answer.status == 504
        assert cache_status(answer) == "aos-gateway; detail=request-only-if-cached"
    assert aos.heads == []
    aos.answer(settled())
    await get(gateway)
    assert is_hit(await get(gateway, TARGET, directive, method=method))


@pytest.mark.parametrize(
    ("target", "fields", "detail"),
    [
        (TARGET + "?", [], "query"),
        (TARGET, [("Range", "bytes=0-1")], "range"),
        (TARGET, [("If-Match", '"x"')], "precondition"),
        (TARGET, [("Content-Length", "0002")], "body"),
        (TARGET, [("Accept-Language", "x" * 65)], "variant"),
        (TARGET + "/", [], "route"),
        ("/v2/stacks/../actions/b", [], "route"),
    ],
)
async def test_what_the_cache_does_not_take_part_in_bypasses_and_says_why(
    aos: ScriptedAos,
    gateway: RunningGateway,
    target: str,
    fields: list[tuple[str, str]],
    detail: str,
) -> None:
    aos.answer(settled())
    expected = (
        "aos-gateway; fwd=bypass" + ("" if detail == "route" else "; fwd-status=200") + f"; detail={detail}"
    )
    await get(gateway)
    for _ in range(2):
        answer = await get(gateway, target, *fields, body=b"{}" if detail == "body" else None)
        assert cache_status(answer) == expected
    assert aos.count() == 3
    for name, value in fields:
        assert aos.received[-1].get(name) == value.encode()


async def test_another_method_on_the_execution_bypasses(aos: ScriptedAos, gateway: RunningGateway) -> None:
    aos.answer(Answer(200))
    expected = cache_status(await get(gateway, method="OPTIONS"))
    assert expected == "aos-gateway; fwd=method; fwd-status=200; detail=method"
