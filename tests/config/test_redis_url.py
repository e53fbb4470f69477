"""The Redis URL: read as redis-py reads it, rejected where redis-py would fail later."""

from typing import Any

import pytest
from redis.connection import parse_url

from gateway.config.errors import InvalidValue
from gateway.config.redis_url import masked_redis_url, redis_url_of


def _understood(url: str) -> dict[str, Any]:
    return dict(parse_url(url))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("text", "meaning", "masked"),
    [
        ("redis://h", {"host": "h"}, "redis://h"),
        ("redis://h:6380/", {"host": "h", "port": 6380}, "redis://h:6380/"),
        ("redis://h:6380/3", {"host": "h", "port": 6380, "db": 3}, "redis://h:6380/3"),
        ("redis://h?db=4", {"host": "h", "db": 4}, "redis://h?db=4"),
        ("redis://[::1]:6380/0", {"host": "::1", "port": 6380, "db": 0}, "redis://[::1]:6380/0"),
        ("redis://:pa%2Fss@h", {"host": "h", "password": "pa/ss"}, "redis://***@h"),
        ("redis://u:p:a@h:1/2", {"host": "h", "port": 1, "db": 2, "username": "u", "password": "p:a"}, None),
        ("redis://u:p@a@h", {"host": "h", "username": "u", "password": "p@a"}, "redis://***@h"),
        ("unix:///run/r.sock", {"path": "/run/r.sock"}, "unix:///run/r.sock"),
        ("unix:///run/r@s.sock", {"path": "/run/r@s.sock"}, "unix:///run/r@s.sock"),
        ("unix://u:p@/r%20s?db=1", {"path": "/r s", "db": 1, "username": "u", "password": "p"}, None),
    ],
)
def test_a_redis_url_means_to_redis_py_what_it_says(
    text: str, meaning: dict[str, Any], masked: str | None
) -> None:
    url = redis_url_of(text)
    assert url.reveal() == text
    understood = {key: value for key, value in _understood(text).items() if key != "connection_class"}
    assert understood == meaning
    assert masked is None or masked_redis_url(url) == masked


def test_a_rediss_url_speaks_tls() -> None:
    assert (
        _understood(redis_url_of("rediss://h:6380").reveal())["connection_class"].__name__ == "SSLConnection"
    )


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("h:6379", "is not a Redis URL; write redis://host:port/db"),
        ("http://h", "is not a Redis URL"),
        ("REDIS://h", "is not a Redis URL"),
        ("redis://h#x", "is not a Redis URL"),
        ("redis://:s3#cret@h", "has # in its user or password; write %23 for #"),
        ("redis://:s3[cret@h", "has [ in its user or password; write %5B for ["),
        ("rediss://:s3?cret/@h:6379/0", "has / ? in its user or password; write %2F for /, %3F for ?"),
        ("unix://:s3/cret@/run/r.sock", "has / in its user or password; write %2F for /"),
        ("redis://:s3 cret@h", "percent-encode it"),
        ("redis://:s3\ncret@h", "percent-encode it"),
        ("redis://:s3%zzcret@h", "holds a % that begins no percent-encoding; write %25 for it"),
        ("redis://:s3écret@h", "percent-encode it"),
        ("redis://:s3/cret@h", "has / in its user or password; write %2F for /"),
        ("redis://", "has no host"),
        ("redis://:6379", "has no host"),
        ("redis://h:0", "has a bad port"),
        ("redis://h:x", "has a bad port"),
        ("redis://h1,h2", "has a bad host"),
        ("redis://h/name", "has a path that is not a database number"),
        ("redis://h/-1", "has a path that is not a database number"),
        ("redis://h/1?db=1", "names the database twice"),
        ("redis://h?db=x", "only ?db=N is possible"),
        ("redis://h?db=1&db=2", "only ?db=N is possible"),
        ("redis://h?socket_timeout=5", "only ?db=N is possible"),
        ("redis://h?password=s3cret", "only ?db=N is possible"),
        ("redis://s3cret@h", "has no password before the @; write :password@ or user:password@"),
        ("redis://u:@h", "has no password before the @"),
        ("unix://", "has no absolute path; write unix:///run/redis.sock"),
        ("unix://run/r.sock", "has no absolute path"),
        ("unix:/run/r.sock", "is not a Redis URL"),
        (f"unix:///{'a' * 107}", "has a path too long for a socket; use at most 107 bytes"),
    ],
)
def test_a_bad_redis_url_is_rejected_without_being_shown(text: str, remedy: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        redis_url_of(text)
    assert remedy in caught.value.remedy
    assert caught.value.value == "***"
    for piece in ("s3", "cret"):
        assert piece not in caught.value.remedy


def test_no_redis_url_means_no_redis() -> None:
    assert not redis_url_of("")
    assert masked_redis_url(redis_url_of("")) == ""
