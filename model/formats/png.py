"""PNG without what an image does not need: a fault there is no reason to refuse it."""

import zlib
from typing import Final

__all__ = ["SIGNATURE", "without_metadata"]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_NEEDED: Final = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_ORIENTATION: Final = b"eXIf"


def without_metadata(data: bytes) -> bytes | None:
    """Return the PNG with the chunks that make its pixels alone, and its EXIF data where they are sound (they say
    which way is up); None if there is nothing to leave out, or it is not a PNG.
    """
    if not data.startswith(SIGNATURE):
        return None
    kept, at, left_out = [SIGNATURE], len(SIGNATURE), False
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind, chunk = data[at + 4 : at + 8], data[at:end]
        if kind in _NEEDED or (kind == _ORIENTATION and _is_sound(chunk)):
            kept.append(chunk)
        else:
            left_out = True
        at = end
    return b"".join(kept) if left_out else None


def _is_sound(chunk: bytes) -> bool:
    return len(chunk) >= 12 and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
