"""The ``Prefer`` request field (RFC 7240)."""

import re

from gateway.core.http.messages import Fields, values

# preference = token [ BWS "=" BWS word ] *( OWS ";" [ OWS parameter ] ); possessive, so matching is linear.
_WORD = rb"""(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++|"(?:[^"\\]|\\.)*+")"""
_PREFERENCE = re.compile(
    rb"[ \t,]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)(?:[ \t]*+=[ \t]*+("
    + _WORD
    + rb"))?(?:[ \t]*+;[ \t]*+(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++(?:[ \t]*+=[ \t]*+"
    + _WORD
    + rb")?+)?+)*+[ \t]*+(?:,|\Z)"
)
_MOST_DIGITS = 9


def wait_s(fields: Fields) -> int | None:
    """Return the seconds that a request asks to wait, by its first ``wait`` preference (RFC 7240 §2, §4.3).

    Returns:
        ``None`` without one, or when it is malformed: preferences are never an error.
    """
    for line in values(fields, b"prefer"):
        position = 0
        while position < len(line):
            match = _PREFERENCE.match(line, position)
            if match is None:
                break
            if match[1].lower() == b"wait":
                digits = (match[2] or b"").strip(b'"')
                return min(int(digits), 10**_MOST_DIGITS) if _is_number(digits) else None
            position = match.end()
    return None


def _is_number(digits: bytes) -> bool:
    return digits.isdigit() and len(digits) <= 2 * _MOST_DIGITS
