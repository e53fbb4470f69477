"""What faults look at and what they do to an answer."""

import msgspec

from gateway.twin.replies import Headers, Reply


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a fault may look at.

    Attributes:
        user: digest of whom the token belongs to; "" without a token.
        peer: address of the other side.
    """

    method: str
    path: str
    user: str
    peer: str
    request_id: str


class Effects(msgspec.Struct, kw_only=True):
    """What becomes of one answer.

    Attributes:
        delay_s: to wait before it, real seconds.
        reply: to send instead of the model's; None for the model's.
        headers: to add.
        keep_share: of the body to send, framed as whole; None for all.
        cut_share: of the body to send before the connection is cut; None for no cut.
        cut_before_head: cut without any answer.
        bytes_per_s: rate of the body; None for no limit.
    """

    delay_s: float = 0.0
    reply: Reply | None = None
    headers: Headers = ()
    keep_share: float | None = None
    cut_share: float | None = None
    cut_before_head: bool = False
    bytes_per_s: int | None = None
