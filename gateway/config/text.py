"""Encodings that editors write where plain UTF-8 is needed."""

import codecs
from typing import Final

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "is UTF-32 text"),
    (codecs.BOM_UTF32_BE, "is UTF-32 text"),
    (codecs.BOM_UTF16_LE, "is UTF-16 text"),
    (codecs.BOM_UTF16_BE, "is UTF-16 text"),
    (codecs.BOM_UTF8, "starts with a byte order mark (BOM)"),
)


def encoding_fault(content: bytes) -> str | None:
    """Return what is wrong with a file that starts with a byte order mark, and the remedy, or ``None``.

    Args:
        content: the file, or its beginning.
    """
    fault = next((fault for mark, fault in _MARKS if content.startswith(mark)), None)
    return None if fault is None else f"{fault}; save it as UTF-8 without BOM"
