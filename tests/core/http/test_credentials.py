"""Which requests may be given the gateway's credentials: the rules alone."""

import pytest

from gateway.core.http.credentials import CredentialRules
from gateway.core.http.errors import MessageError
from gateway.core.http.host import OwnHosts
from gateway.core.http.messages import Field, IndexedFields, Request

HOSTS = OwnHosts.of(["gateway.example"])
ALLOW = ("GET /v2/stacks/*", "PUT /v2/stacks/a.b")
HOST = (b"Host", b"gateway.example:8080")
STACK = b"/v2/stacks/s"


def sorted_(
    *fields: Field,
    target: bytes = STACK,
    method: str = "GET",
    own_hosts: OwnHosts | None = HOSTS,
    client_token: bytes = b"",
) -> Request | int:
    """The request as it goes on, or the status that it is refused with."""
    rules = CredentialRules((b"x-tenant", b"x_odd"), ALLOW, own_hosts, client_token)
    request = Request(method, target, IndexedFields(fields), b"", b"http", 0, b"id")
    try:
        return rules.sort(request)
    except MessageError as error:
        return error.status if (error.challenge == "Bearer") == (error.status == 401) else 0


@pytest.mark.parametrize(
    ("target", "method", "is_allowed"),
    [
        (STACK, "GET", True),
        (STACK, "HEAD", True),
        (STACK + b"?", "GET", True),
        (STACK + b"?a=%2e%2e;//", "GET", True),
        (b"/v2/stacks/a.b", "PUT", True),
        (b"/v2/stacks/axb", "PUT", False),
        (STACK, "PUT", False),
        (STACK, "get", False),
        (STACK, "G", False),
        (STACK + b"/", "GET", False),
        (STACK + b"/x", "GET", False),
        (b"/v2/stacks", "GET", False),
        (b"/v2/stacks/", "GET", False),
        (b"/v2/stacks/.", "GET", False),
        (b"/v2/stacks/..", "GET", False),
        (b"/v2/stacks/...", "GET", True),
        (b"/v2/stacks/a%62", "GET", False),
        (b"/v2/stacks/a;b", "GET", False),
        (b"/v2/stacks/a\\b", "GET", False),
        (b"/v2//stacks/a", "GET", False),
        (b"//v2/stacks/a", "GET", False),
        (b"/V2/stacks/a", "GET", False),
        (b"/v2/stacks/*", "GET", False),
        (b"/1/2/3/4/5/6/7/8/9", "GET", False),
        (b"*", "OPTIONS", False),
    ],
)
def test_what_is_allowed_is_a_method_and_a_plain_path(target: bytes, method: str, is_allowed: bool) -> None:
    found = sorted_(HOST, target=target, method=method)
    assert found == 403 if not is_allowed else isinstance(found, Request) and found.needs_credentials


@pytest.mark.parametrize(
    "name", [b"X-Tenant", b"x_tenant", b"X-Odd", b"X_ODD", b"X-Auth-Token", b"X-SDK-Date"]
)
def test_a_part_of_credentials_is_refused_and_whole_ones_are_the_callers(name: bytes) -> None:
    assert sorted_(HOST, (name, b"")) == 400
    own = sorted_(HOST, (name, b"1"), (b"x-auth-token", b"t"), target=b"/anything%2F")
    assert isinstance(own, Request)
    assert not own.needs_credentials
    signed = sorted_(HOST, (name, b"1"), (b"Authorization", b"SDK-HMAC-SHA256 Access=A"))
    assert isinstance(signed, Request)
    assert not signed.needs_credentials


def test_the_host_has_to_be_the_gateways_own_unless_nobody_else_can_connect() -> None:
    for fields in ((), ((b"Host", b""),), ((b"Host", b"evil.example"),)):
        assert sorted_(*fields) == 421
        assert isinstance(sorted_(*fields, own_hosts=None), Request)


@pytest.mark.parametrize("field", [(b"Origin", b"null"), (b"Sec-Fetch-Site", b"cross-site")])
def test_a_web_page_is_refused(field: Field) -> None:
    assert sorted_(HOST, field) == 403


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, 401),
        (b"Bearer", 401),
        (b"Bearer secrets", 401),
        (b"bearer\tsecret x", 401),
        (b"Bearer secret", 0),
        (b"bearer   secret ", 0),
        (b"Basic secret", 400),
        (b"Bearersecret", 400),
        (b"", 400),
    ],
)
def test_the_client_token_is_compared_whole_and_removed(value: bytes | None, status: int) -> None:
    fields = () if value is None else ((b"AUTHORIZATION", value),)
    found = sorted_(HOST, *fields, client_token=b"secret")
    if status:
        assert found == status
    else:
        assert isinstance(found, Request)
        assert found.fields == (HOST,)
    # Beside credentials of its own a right one is removed too, and a wrong one goes nowhere.
    own = sorted_(HOST, *fields, (b"X-Auth-Token", b"t"), client_token=b"secret")
    if fields and status == 401:
        assert own == 401
    else:
        assert isinstance(own, Request)
        assert ((b"AUTHORIZATION", value) in own.fields) == (status == 400)


def test_nothing_is_allowed_by_an_empty_list() -> None:
    rules = CredentialRules((), (), None, b"")
    with pytest.raises(MessageError, match="allow has no"):
        rules.sort(Request("GET", STACK, IndexedFields((HOST,)), b"", b"http", 0, b"id"))
