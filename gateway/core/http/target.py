"""The request line's target in origin-form, and whether its method may write (RFC 9112 §3.2, RFC 9110 §9)."""

import re
from collections.abc import Collection

SERVER_WIDE = b"*"
"""The asterisk-form target: an ``OPTIONS`` about the whole server (RFC 9112 §3.2.4)."""

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CACHEABLE_METHODS = frozenset({"GET", "HEAD"})
METHOD_OVERRIDES = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
"""Fields, lower case, that some servers let replace the method."""

_TARGET = re.compile(rb"/[\x21-\x22\x24-\x7e]*")
_ABSOLUTE_TARGET = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)(.*)")


def origin_form(method: str, target: bytes) -> tuple[bytes, bytes | None] | None:
    """Reduce a request target to origin-form, or to the asterisk-form of ``OPTIONS`` (RFC 9112 §3.2).

    Returns:
        The target from the path on and the authority of an absolute-form target (``None`` for
        the other forms); ``None`` for anything else: authority-form, fragments, non-ASCII.
    """
    authority: bytes | None = None
    if absolute := _ABSOLUTE_TARGET.fullmatch(target):
        authority = absolute[1]
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        if method == "OPTIONS" and not absolute[2]:
            target = SERVER_WIDE
    if method == "OPTIONS" and target == SERVER_WIDE:
        return target, authority
    return (target, authority) if _TARGET.fullmatch(target) else None


def is_write(method: str, field_names: Collection[bytes]) -> bool:
    """Tell whether a request, whose fields have these lower-case names, may change something upstream."""
    if method not in READING_METHODS:
        return True
    return any(name.replace(b"_", b"-") in METHOD_OVERRIDES for name in field_names)
