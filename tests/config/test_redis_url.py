"""The Redis URL: read as redis-py reads it, rejected where redis-py would fail later."""

from typing import Any

import pytest
from redis.connection import parse_url

from gateway.config.errors import InvalidValue
from gateway.config.redis_url import masked_redis_url, redis_place, redis_url_of, same_redis


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
        ("redis+sentinel://h1,,h2/main", "has no host"),
        ("redis+sentinel:///main", "has no host"),
        ("redis+sentinel://h1:0,h2/main", "has a bad port"),
        ("redis+sentinel://h", "does not name the service"),
        ("redis+sentinel://h/a%20b", "does not name the service"),
        ("redis+sentinel://h/main/x", "has no database number after the service"),
        ("redis+sentinel://h/main/0/1", "has no database number after the service"),
        ("redis+sentinel://h/main?db=1", "has a query; write the database in the path"),
        ("redis+sentinel://s3cret@h/main", "has no password before the @"),
        ("redis+sentinel://:s3/cret@h/main", "has / in its user or password; write %2F for /"),
        ("redis+sentinel://u:s3cret@h1,u:s3cret@h2/main", "has more than one @; write the user once"),
        ("redis+cluster://u:s3cr@et@h1,h2", "has more than one @; write the user once"),
        (f"redis+cluster://{'h,' * 64}h", "has 65 hosts; write at most 64"),
        ("redis+cluster://h/1", "names a database, but a Cluster has 0 alone"),
        ("redis+cluster://h/0/0", "names a database, but a Cluster has 0 alone"),
        ("unix+cluster:///run/r.sock", "is not a Redis URL"),
        ("redis+other://h", "is not a Redis URL"),
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


@pytest.mark.parametrize(
    ("text", "place", "server", "masked"),
    [
        (
            "redis+sentinel://a,b:1,[::1]:2/main",
            ("sentinel", (("a", 26379), ("b", 1), ("::1", 2)), "main"),
            "redis://h:5/0",
            "redis+sentinel://a,b:1,[::1]:2/main",
        ),
        (
            "rediss+sentinel://u:p%2Fw@a/my.main-1_x/3",
            ("sentinel", (("a", 26379),), "my.main-1_x"),
            "rediss://u:p%2Fw@h:5/3",
            "rediss+sentinel://***@a/my.main-1_x/3",
        ),
        ("redis+cluster://a", ("cluster", (("a", 6379),), ""), "redis://h:5/0", "redis+cluster://a"),
        # Named twice it has one voice among the Sentinels.
        (
            "redis+sentinel://a,b,a:26379/main",
            ("sentinel", (("a", 26379), ("b", 26379)), "main"),
            "redis://h:5/0",
            "redis+sentinel://a,b,a:26379/main",
        ),
        (
            "rediss+cluster://:pw@a:1,b:2/0",
            ("cluster", (("a", 1), ("b", 2)), ""),
            "rediss://:pw@h:5/0",
            "rediss+cluster://***@a:1,b:2/0",
        ),
        ("redis://h:1/2", ("single", (), ""), None, "redis://h:1/2"),
        ("unix:///run/r.sock", ("single", (), ""), None, "unix:///run/r.sock"),
    ],
)
def test_a_url_of_several_hosts_says_where_each_server_is_reached(
    text: str, place: tuple[str, object, str], server: str | None, masked: str
) -> None:
    url = redis_url_of(text)
    found = redis_place(url.reveal())
    assert (found.kind, found.hosts, found.service) == place
    assert server is None or found.server_url("h", 5) == server
    assert masked_redis_url(url) == masked


def test_a_server_at_an_ipv6_address_has_brackets_in_its_url() -> None:
    assert redis_place("redis+cluster://a").server_url("::1", 5) == "redis://[::1]:5/0"


def test_only_user_and_password_leave_a_redis_of_several_hosts_the_same() -> None:
    one = redis_url_of("redis+sentinel://:old@a,b/main")
    assert same_redis(one, redis_url_of("redis+sentinel://:new@a,b/main"))
    for other in ("redis+sentinel://:old@a,b/other", "redis+sentinel://:old@a/main", "redis+cluster://a,b"):
        assert not same_redis(one, redis_url_of(other))


def test_no_redis_url_means_no_redis() -> None:
    assert not redis_url_of("")
    assert masked_redis_url(redis_url_of("")) == ""
