"""Damage in a JPEG that its decoder only warns of, and does not report: data lost, overwritten or changed on the way.

A scan says nothing of its length, so data that were lost or overwritten show in one way: the decoder comes to the end
of the image too early or too late. Where there is a single scan, the decoder is fed so that this can be seen, at no
cost: it gets the scan up to its last bytes, when it must still want more, and then all of it and a few bytes of
padding, when it must not. Of several scans (progressive JPEGs) nothing of the kind can be seen; where their bytes look
odd, a stricter reader is asked.
"""

import io
import math
import re
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from model.errors import DAMAGED, TRUNCATED, ImageError

__all__ = ["CUT_OFF", "load", "read_header"]

CUT_OFF: Final = "the file ends before its image does; copy it again"
_DAMAGED: Final = "the image's data are damaged: {}; copy the file again from where it came"
_ZEROED: Final = "a part of them was overwritten with zeros"
_LIKE_TEXT: Final = "line ends were changed in them, as if they were text"

_HELD_BACK: Final = (32, 16, 8, 4, 2)  # bytes before the end; an image that is whole needs the last two
_PADDING: Final = b"\xfe" * 8  # as much as the decoder wants to have ahead, and hardly a block of any Huffman table
_FILLING: Final = b"\0\xff"  # what some cameras put after the last block
_ZEROS: Final = bytes(64)  # more than a block of nothing but smallest coefficients
_LINE_ENDS: Final = 8
_END: Final = b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_IN_SEQUENCE = frozenset((0xC0, 0xC1))  # baseline and extended, Huffman-coded: these may have a single scan
_MARKER = re.compile(rb"\xff[^\0\xff]")
_MARKER_BUT_RESTART = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


@dataclass(slots=True)
class Header:
    """What comes before the first entropy-coded data, which begin at `start`."""

    kind: int = 0
    frame: bytes = b""
    scan: bytes = b""
    start: int = 0
    restart_interval: int = 0
    tables: list[bytes] = field(default_factory=list)

    @property
    def single_scan(self) -> bool:
        """Whether the first scan has all of the image, in sequence."""
        return self.kind in _IN_SEQUENCE and self.scan[0] == self.frame[5]

    @property
    def restarts(self) -> int:
        """How many restart markers a single scan has (ITU-T T.81, A.2 and E.1.4)."""
        if not self.restart_interval:
            return 0
        height, width, sampling = self.frame[1:3], self.frame[3:5], self.frame[7::3]
        # The blocks of a lone component are not grouped, whatever its sampling factors.
        across = 8 * (max(byte >> 4 for byte in sampling) if len(sampling) > 1 else 1)
        down = 8 * (max(byte & 15 for byte in sampling) if len(sampling) > 1 else 1)
        units = math.ceil(int.from_bytes(width, "big") / across) * math.ceil(int.from_bytes(height, "big") / down)
        return math.ceil(units / self.restart_interval) - 1


def read_header(data: bytes) -> Header | None:
    """Return the header of a JPEG; None if it has none that is whole. What lies between segments is passed over."""
    header, at = Header(), 2
    while (found := _MARKER.search(data, at)) is not None:
        at, marker = found.start(), found[0][1]
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker in _FRAMES:
            header.kind, header.frame = marker, segment
        elif marker == 0xC4:
            header.tables.append(segment)
        elif marker == 0xDD:
            header.restart_interval = int.from_bytes(segment[:2], "big")
        elif marker == 0xDA:
            header.scan, header.start = segment, at
            return header if len(header.frame) >= 9 and segment and len(data) >= at else None
        elif marker == 0xD9:
            return None
    return None


def load(image: Image.Image, data: bytes) -> None:
    """Load an opened JPEG of these bytes; raises ImageError where its data do not fit its image.

    `damaged`: data were lost, overwritten or added. `truncated`: the file ends before the image does; one that only
    lacks its end marker loads.
    """
    header = read_header(data)
    if header is None or len(getattr(image, "tile", ())) != 1:
        image.load()
    elif header.single_scan:
        _load_single_scan(image, data, header)
    else:
        _load_several_scans(image, data, header)


def _load_single_scan(image: Image.Image, data: bytes, header: Header) -> None:
    found = (_MARKER_BUT_RESTART if header.restart_interval else _MARKER).search(data, header.start)
    end = found.start() if found else len(data)
    feed = _Feed(data, start=header.start, end=end, ended=found is not None)
    image.fp = feed  # type: ignore[attr-defined]
    image.load()
    if data[feed.given : end].strip(_FILLING):
        raise ImageError(DAMAGED, _DAMAGED.format("more of them follow when it is complete"))
    if header.restart_interval:
        restarts = b"".join(_RESTART.findall(data, header.start, end))
        if restarts != bytes(0xD0 + number % 8 for number in range(header.restarts)):
            raise ImageError(DAMAGED, _DAMAGED.format("restart markers are missing or out of order"))
    if data.find(_ZEROS, header.start, end) >= 0 and not _zeros_mean_nothing(header):
        raise ImageError(DAMAGED, _DAMAGED.format(_ZEROED))
    if _is_like_text(data, header.start, end) and not _is_intact(data[:end] + _END, image):
        raise ImageError(DAMAGED, _DAMAGED.format(_LIKE_TEXT))


class _Feed(io.RawIOBase):
    """The file, given in parts whatever is asked for, up to the one with which the decoder has the whole image."""

    def __init__(self, data: bytes, *, start: int, end: int, ended: bool) -> None:
        self._data, self._end, self._ended = data, end, ended
        self._stops = [stop for stop in (end - held_back for held_back in _HELD_BACK) if stop > start]
        self.given = 0

    def read(self, size: int = -1) -> bytes:  # noqa: ARG002
        start = self.given
        if self._stops:
            self.given = self._stops.pop(0)
            return self._data[start : self.given]
        if start < self._end:
            self.given = self._end
            # A 0xff at the end is filling, and would make a marker of what follows.
            return self._data[start : self._end].rstrip(b"\xff") + _PADDING
        if self._ended:
            raise ImageError(DAMAGED, _DAMAGED.format("they end before it is complete"))
        raise ImageError(TRUNCATED, CUT_OFF)

    def seek(self, offset: int, whence: int = 0) -> int:  # noqa: ARG002
        return 0


def _zeros_mean_nothing(header: Header) -> bool:
    """Return whether bits of zero say "no more coefficients" in each table: then a plain area is a long run of them. In
    others they say coefficient after coefficient, which no encoder writes for a whole block.
    """
    for segment in header.tables:
        at = 0
        while at + 17 < len(segment):
            counts = segment[at + 1 : at + 17]
            if segment[at] >> 4 == 1 and segment[at + 17] != 0:
                return False
            at += 17 + sum(counts)
    return True


def _load_several_scans(image: Image.Image, data: bytes, header: Header) -> None:
    end = data.rfind(_END, header.start)
    if end < 0:
        whole = data + _END
        if not _is_intact(whole, image):
            raise ImageError(TRUNCATED, CUT_OFF)
        image.fp = io.BytesIO(whole)  # type: ignore[attr-defined]
    else:
        like_text = _is_like_text(data, header.start, end)
        zeros = bytes(max(len(_ZEROS), (end - header.start) // 64))
        odd = like_text or data.find(zeros, header.start, end) >= 0
        if odd and not _is_intact(data[: end + 2], image):
            raise ImageError(DAMAGED, _DAMAGED.format(_LIKE_TEXT if like_text else _ZEROED))
    image.load()


def _is_like_text(data: bytes, start: int, end: int) -> bool:
    """Return whether each line feed has a carriage return before it, as after a transfer in text mode."""
    at, feeds = start, 0
    while (at := data.find(b"\n", at, end)) >= 0 and data[at - 1] == 0x0D:
        at, feeds = at + 1, feeds + 1
    return at < 0 and feeds >= _LINE_ENDS


def _is_intact(data: bytes, image: Image.Image) -> bool:
    """Return whether JPEG XL's lossless transcoder, which reads a JPEG to the last bit, takes it; slow if so."""
    try:
        from pillow_jxl import Encoder
    except ImportError:
        return False
    factory: Any = Encoder  # its annotations are those of an older release
    encoder = factory(
        mode="RGB", lossless=False, quality=90, decoding_speed=0, effort=1, use_container=True,
        use_original_profile=False, num_threads=0,
    )  # fmt: skip
    try:
        encoder(data, *image.size, jpeg_encode=True)
    except RuntimeError:
        return False
    return True
