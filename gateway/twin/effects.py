"""What faults match on, and their effects on a response."""

import msgspec

from gateway.twin.replies import Headers, Reply


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The request, as faults see it.

    Attributes:
        user: digest of the token's user; "" without a token.
        peer: address of the other side.
    """

    method: str
    path: str
    user: str
    peer: str
    request_id: str


class Effects(msgspec.Struct, kw_only=True):
    """What faults do to one response.

    Attributes:
        delay_s: before the response, real seconds.
        reply: to send instead of the model's; None for the model's.
        headers: to add.
        keep_share: of the body to send, framed as whole; None for all.
        cut_share: of the body to send before the connection is cut; None for no cut.
        cut_before_head: cut without any response.
        bytes_per_s: rate of the body; None for no limit.
    """

    delay_s: float = 0.0
    reply: Reply | None = None
    headers: Headers = ()
    keep_share: float | None = None
    cut_share: float | None = None
    cut_before_head: bool = False
    bytes_per_s: int | None = None
