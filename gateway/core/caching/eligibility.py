"""Whether the cache may take part in a request, and under which identity."""

from collections.abc import Container

import msgspec

from gateway.core.aos.route import ExecutionRef, execution
from gateway.core.caching.cache_status import Forward, Reason
from gateway.core.caching.freshness import unmet_vary, varies_on_accept
from gateway.core.caching.identity import Identity, IdentityReader, Variant, variant
from gateway.core.caching.policy import FetchedResponse
from gateway.core.caching.request_directives import RequestDirectives, read_directives
from gateway.core.http.fields import end_to_end
from gateway.core.http.messages import Fields, Request, first
from gateway.core.http.proxy_identity import FetchLines
from gateway.core.http.target import CACHEABLE_METHODS

_BYPASSING_CONDITIONS = (b"if-match", b"if-unmodified-since")


class Bypass(msgspec.Struct, frozen=True, gc=False):
    """The request goes upstream as it is: no look-up, no storing, no shared fetch.

    Attributes:
        forward: ``fwd`` of ``Cache-Status``.
        reason: why.
        is_reading: GET or HEAD, to which ``only-if-cached`` applies.
    """

    forward: Forward
    reason: Reason
    is_reading: bool


class Eligible(msgspec.Struct, frozen=True, gc=False):
    """An execution call whose caller can be identified.

    Attributes:
        execution: the record asked for.
        fields: end-to-end fields of the request.
        fetch_lines: field lines of its fetch; ``None`` where they are still to be made. Only plain requests
            have them, which give no directives and ask for nothing new.
    """

    execution: ExecutionRef
    identity: Identity
    variant: Variant
    directives: RequestDirectives
    fields: Fields
    fetch_lines: FetchLines | None = None


def eligibility(
    request: Request, identity_reader: IdentityReader, configured: Identity | None = None
) -> Eligible | Bypass:
    """Decide whether the cache takes part; the first rule that excludes the request gives the reason.

    Args:
        request: what was asked.
        identity_reader: tells callers apart.
        configured: of the gateway's credentials, if it goes upstream with them; ``None`` otherwise.
    """
    is_reading = request.method in CACHEABLE_METHODS
    call = execution(request.target)
    if call is None:
        return Bypass(Forward.BYPASS, Reason.ROUTE, is_reading)
    if not is_reading:
        return Bypass(Forward.METHOD, Reason.METHOD, is_reading)
    # As they will be sent: hop-by-hop fields must not distinguish callers.
    fields = end_to_end(request.fields)
    for applies, reason in (
        (call.has_query, Reason.QUERY),
        (request.body_bytes != 0, Reason.BODY),
        (first(fields, b"range") is not None, Reason.RANGE),
        (any(first(fields, name) is not None for name in _BYPASSING_CONDITIONS), Reason.PRECONDITION),
    ):
        if applies:
            return Bypass(Forward.BYPASS, reason, is_reading)
    identity = configured or identity_reader.identify(fields)
    if isinstance(identity, Reason):
        return Bypass(Forward.BYPASS, identity, is_reading)
    negotiated = variant(fields)
    if negotiated is None:
        return Bypass(Forward.BYPASS, Reason.VARIANT, is_reading)
    return Eligible(call, identity, negotiated, read_directives(fields), fields)


def identified_anew(eligible: Eligible, identity_reader: IdentityReader) -> Eligible:
    """Return an eligible request as its caller's user is known now; itself where nothing has changed."""
    if not eligible.identity.token:
        return eligible
    identity = identity_reader.identify(eligible.fields)
    if identity == eligible.identity or isinstance(identity, Reason):
        return eligible
    return msgspec.structs.replace(eligible, identity=identity)


def may_share(
    eligible: Eligible, fetched_response: FetchedResponse, identity_headers: Container[bytes]
) -> bool:
    """Tell whether a follower of a fetch may get its response, by ``Vary`` (RFC 9111 §4.1).

    Args:
        eligible: the follower's request, of the same caller and `Variant.general`.
        fetched_response: the response, stored or not.
        identity_headers: lower-case names of the fields that identify a caller.
    """
    if (
        varies_on_accept(fetched_response.head.fields)
        and variant(fetched_response.request) != eligible.variant
    ):
        return False
    return unmet_vary(fetched_response.head.fields, eligible.fields, identity_headers) is None
