"""What a file is that is not an image, or not one that is decoded: recognized by its first bytes, for its row."""

import re
from typing import Final

from model.errors import DAMAGED, TRUNCATED, UNDECODABLE, UNSUPPORTED, ImageError
from model.formats.jpeg import CUT_OFF

__all__ = ["AVIF_BRANDS", "HEIF_BRANDS", "is_cut_off", "isobmff_brands", "no_image"]

_CONVERT: Final = "convert it to JPEG, PNG, WebP, AVIF or TIFF"
_UNPACK: Final = "unpack it"
_FORMATS: Final = (
    (0, b"%!PS", "an EPS or PostScript file", _CONVERT),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS file", _CONVERT),
    (0, b"%PDF", "a PDF", _CONVERT),
    (0, b"8BPS", "a Photoshop file", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", _CONVERT),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", _CONVERT),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file", _CONVERT),
    (0, b"<svg", "an SVG drawing", _CONVERT),
    (0, b"\0\0\1\0", "an icon", _CONVERT),
    (0, b"icns", "an icon", _CONVERT),
    (0, b"gimp xcf", "a GIMP file", _CONVERT),
    (0, b"DDS ", "a DDS texture", _CONVERT),
    (0, b"qoif", "a QOI image", _CONVERT),
    (0, b"v/1\x01", "an OpenEXR image", _CONVERT),
    (0, b"#?RADIANCE", "a Radiance image", _CONVERT),
    *((0, b"P%d" % kind + blank, "a PNM image", _CONVERT) for kind in range(1, 7) for blank in (b"\n", b" ", b"\r")),
    (0, b"\x1aE\xdf\xa3", "a video", ""),
    (8, b"AVI ", "a video", ""),
    (8, b"WAVE", "a sound", ""),
    (0, b"ID3", "a sound", ""),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive (office documents are such, too)", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"SQLite format 3\0", "an SQLite database", ""),
    (0, b"\x7fELF", "a program", ""),
    (0, b"MZ", "a program", ""),
    (0, b"\0\5\x16\7", "what macOS keeps beside a file (AppleDouble)", "leave it out"),
)
AVIF_BRANDS: Final = frozenset((b"avif", b"avis"))
HEIF_BRANDS: Final = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_VIDEOS: Final = (b"iso", b"mp4", b"avc", b"qt  ", b"M4V", b"M4A", b"3g", b"f4v", b"dash", b"MSNV", b"mmp4", b"XAVC")
_PNG_AS_TEXT: Final = (b"\x89PNG\n\x1a\n", b"\x89PNG\r\r\n\x1a\r\n", b"\x89PNG\r\n\x1a\r\n", b"\x89PNG\r\x1a\r")
_TITLE: Final = re.compile(rb"<title[^>]*>\s*([^<]{1,200}?)\s*</title>", re.IGNORECASE)
_STORE_ERROR: Final = re.compile(rb"<Error>.*?<Code>\s*([A-Za-z0-9._-]{1,60})\s*</Code>", re.DOTALL)
_FETCH: Final = "fetch the image again"


def isobmff_brands(data: bytes) -> frozenset[bytes]:
    """Return the brands of an ISO base media file (ISO 14496-12, 4.3), main and compatible; none of another file."""
    if data[4:8] != b"ftyp":
        return frozenset()
    box = data[8 : min(int.from_bytes(data[:4], "big"), 4096)]
    return frozenset(box[at : at + 4] for at in range(0, len(box), 4) if at != 4)


def is_cut_off(data: bytes) -> bool:
    """Return whether a container says that it is longer than the data."""
    if data[:4] == b"RIFF":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") >= len(data)
    if data[4:8] == b"ftyp":
        return _boxes_end(data) > len(data)
    return False


def _boxes_end(data: bytes) -> int:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size == 0:  # to the end of the file, wherever that is
            return len(data)
        at += max(size, 8)
    return at


def no_image(data: bytes) -> ImageError:
    """Return the error of a file in which no image was found."""
    if not data:
        return ImageError(UNDECODABLE, "the file is empty")
    for offset, magic, kind, advice in _FORMATS:
        if data.startswith(magic, offset):
            return ImageError(UNSUPPORTED, f"the file is {kind}{advice and '; '}{advice}")
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    if data.startswith(_PNG_AS_TEXT):
        return ImageError(DAMAGED, "the PNG was transferred as if it were text; copy the file again in binary mode")
    if is_cut_off(data):
        return ImageError(TRUNCATED, CUT_OFF)
    if not data.strip(b"\0"):
        return ImageError(UNDECODABLE, "the file is nothing but zeros; copy it again from where it came")
    if text := _text(data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")):
        return ImageError(UNDECODABLE, f"the file is {text}")
    return ImageError(UNDECODABLE, "the file is not an image, or its header is damaged")


def _iso_media(data: bytes) -> ImageError:
    brands = isobmff_brands(data)
    if brands & (AVIF_BRANDS | HEIF_BRANDS):
        name = "AVIF" if brands & AVIF_BRANDS else "HEIC"
        if is_cut_off(data):
            return ImageError(TRUNCATED, CUT_OFF)
        return ImageError(UNDECODABLE, f"the {name} image is damaged; copy the file again from where it came")
    main = data[8:12]
    if main == b"crx ":
        return ImageError(UNSUPPORTED, f"the file is a camera's raw file; {_CONVERT}")
    if main.startswith(_VIDEOS):
        return ImageError(UNSUPPORTED, "the file is a video or a sound")
    return ImageError(UNSUPPORTED, f"the file is a media file of the kind {main.decode('ascii', 'replace')!r}")


def _text(head: bytes) -> str:
    """Return what a text is, and what to do; empty where it is not text."""
    lower = head[:200].lower()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the image itself; fetch it: git lfs pull"
    if head.startswith(b"HTTP/"):
        return f"the answer of a web server, not an image; {_FETCH}"
    if (found := _STORE_ERROR.search(head)) is not None:
        return f"an error message of a file store ({found[1].decode()}), not an image; {_FETCH}"
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in lower:
        title = _TITLE.search(head)
        said = f" ({' '.join(title[1].decode('utf-8', 'replace').split())!r})" if title else ""
        return f"a web page{said}, not an image; {_FETCH}"
    if b"<svg" in head:
        return f"an SVG drawing; {_CONVERT}"
    if lower.startswith(b"<?xml"):
        return f"XML, not an image; {_FETCH}"
    if head.startswith((b"{", b"[")) and _is_text(head):
        return f"JSON, perhaps an error message, not an image; {_FETCH}"
    return f"a text, not an image; {_FETCH}" if _is_text(head) else ""


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as exc:
        if len(head) - exc.start > 3:  # more than a character that was cut in two
            return False
        text = head[: exc.start].decode()
    return bool(text) and all(character.isprintable() or character in "\t\r\n\f" for character in text)
