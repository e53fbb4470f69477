"""Faults on demand: how they are described.

A fault waits until a request matches it. `count` bounds how many responses it affects, `duration_s` how
long it waits (modelled time); without either it stays until the faults are cleared.
"""

from typing import Annotated, Final, Literal, get_args

import msgspec

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=600)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
_Status = Annotated[int, msgspec.Meta(ge=400, le=599)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}$")]
_Value = Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{0,1024}$")]
_Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all faults have.

    Attributes:
        path: shell pattern over the path as sent, without the query.
        method: shell pattern over the method.
        count: how many responses to affect; None for all.
        duration_s: how long to wait for matching requests, modelled seconds; None for ever.
    """

    path: _Pattern = "*"
    method: _Pattern = "*"
    count: _Count | None = None
    duration_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Latency(_Fault, frozen=True, kw_only=True, tag="latency"):
    """Delay the response, real seconds."""

    delay_s: _Seconds


class Status(_Fault, frozen=True, kw_only=True, tag="status"):
    """Respond with an error in one of the shapes that real callers see."""

    status: _Status
    shape: Literal["aos", "apigw", "html", "iam"] = "aos"
    retry_after_s: Annotated[int, msgspec.Meta(ge=0)] | None = None


class RateLimited(_Fault, frozen=True, kw_only=True, tag="rate_limited"):
    """Respond with 429 as the API gateway does."""

    retry_after_s: Annotated[int, msgspec.Meta(ge=0)] | None = 1


class Throttle(_Fault, frozen=True, kw_only=True, tag="throttle"):
    """Respond with 429 as the API gateway does beyond `limit` calls in a window.

    Attributes:
        limit: calls that are served in each window.
        window_s: length of a window, modelled seconds; windows begin at its multiples.
        per: whose calls are counted together: one user's, one peer address's, or everybody's.
        retry_after_s: value of Retry-After; None to leave it out, as Huawei's gateway does.
    """

    limit: _Count
    window_s: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 1
    per: Literal["user", "ip", "api"] = "user"
    retry_after_s: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Truncated(_Fault, frozen=True, kw_only=True, tag="truncated"):
    """Send only this share of the body, framed as if it were whole."""

    share: _Share = 0.5


class Cut(_Fault, frozen=True, kw_only=True, tag="cut"):
    """Break the connection after this share of the body, or with `before_head` instead of answering."""

    share: _Share = 0.5
    before_head: bool = False


class SlowBody(_Fault, frozen=True, kw_only=True, tag="slow_body"):
    """Send the body at this rate."""

    bytes_per_s: Annotated[int, msgspec.Meta(ge=1)]


class Header(_Fault, frozen=True, kw_only=True, tag="header"):
    """Add a header, by default the origin's Cache-Control."""

    value: _Value
    name: _Name = "Cache-Control"


Fault = Latency | Status | RateLimited | Throttle | Truncated | Cut | SlowBody | Header
KINDS: Final = tuple(str(kind.__struct_config__.tag) for kind in get_args(Fault))
