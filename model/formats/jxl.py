"""The size of a JPEG XL image (ISO 18181), read before its decoder, which decodes all at once, sees a byte of it."""

from typing import Final

__all__ = ["is_jxl", "pixel_size"]

_CODESTREAM: Final = b"\xff\x0a"
_CONTAINER: Final = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_WIDTHS: Final = (9, 13, 18, 30)


def is_jxl(data: bytes) -> bool:
    """Return whether the data start like JPEG XL, with or without a container."""
    return data.startswith((_CODESTREAM, _CONTAINER))


def pixel_size(data: bytes) -> tuple[int, int]:
    """Return width and height as they are stored, before any turning; ValueError where the header is not whole."""
    start = _codestream(data)
    if data[start : start + 2] != _CODESTREAM:
        raise ValueError("there is no JPEG XL codestream")
    bits = _Bits(data[start + 2 : start + 16])
    small = bits.take(1)
    height = _side(bits, small=small)
    ratio = bits.take(3)
    if ratio:
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    return _side(bits, small=small), height


def _side(bits: "_Bits", *, small: int) -> int:
    return 8 * (bits.take(5) + 1) if small else bits.take(_WIDTHS[bits.take(2)]) + 1


def _codestream(data: bytes) -> int:
    """Return where the codestream begins: at once, or in the first box that has some of it."""
    if not data.startswith(_CONTAINER):
        return 0
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        header = 16 if size == 1 else 8
        if kind == b"jxlc":
            return at + header
        if kind == b"jxlp":
            return at + header + 4
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        if size < header:
            break
        at += size
    raise ValueError("there is no JPEG XL codestream")


class _Bits:
    """Bits from the least significant on."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next `count` bits as a number; ValueError past the end."""
        if count > self._left:
            raise ValueError("the JPEG XL header ends early")
        found = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return found
