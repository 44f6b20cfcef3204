"""Which files are images: by suffix, and where the suffix says nothing, by the first bytes."""

import re
from collections import Counter
from collections.abc import Mapping
from enum import Enum

__all__ = [
    "HEAD_BYTES",
    "NO_SUFFIX",
    "OTHER_SUFFIXES",
    "Kind",
    "LeftOut",
    "kind",
    "merged",
    "starts_like_an_image",
    "suffix",
]

HEAD_BYTES = 256
"""How much of a file `starts_like_an_image` needs."""

NO_SUFFIX = ""
"""The suffix of a name that has none, or none that reads like one."""

OTHER_SUFFIXES = "…"
"""Stands for all suffixes past the first hundred different ones."""

_MOST_SUFFIXES = 100
_COMMON = frozenset((b".jpg", b".JPG", b".png"))  # most files, recognized at once
_IMAGES = frozenset(b"jpg jpeg jpe jfif pjpeg png webp gif bmp tif tiff avif heic heif hif jxl mpo".split())
# Never looked into: what they hold is known, even if it is an image of a kind (a camera's raw file starts like a TIFF).
_OTHERS = frozenset(
    b"""
    txt csv tsv json jsonl ndjson xml yaml yml toml ini cfg conf log md rst html htm mhtml css js ts py pyc ipynb sh bat
    sql db sqlite sqlite3 lock pid url lnk webloc xmp aae thm pp3 on1 dop lrcat sha1 sha256 md5 sig asc
    pdf doc docx xls xlsx ppt pptx odt ods odp rtf pages numbers key eml msg ics vcf epub
    mp4 m4v mov avi mkv webm wmv flv mpg mpeg mts m2ts 3gp 3g2 insv lrv mp3 m4a aac wav flac ogg oga opus srt vtt
    zip gz tgz bz2 xz zst tar rar 7z iso dmg apk jar exe msi dll so dylib deb rpm
    parquet arrow feather npy npz pkl pickle pt pth h5 hdf5 onnx safetensors ckpt mat
    psd psb ai eps svg ico icns xcf sketch fig indd cdr dds exr hdr
    cr2 cr3 crw nef nrw arw sr2 srf dng raf orf rw2 rwl pef srw 3fr fff iiq mrw x3f erf kdc raw
    ttf otf woff woff2
    """.split()
)
_READABLE = re.compile(rb"[a-z0-9_-]{1,12}")
_FORMATS = (
    b"\xff\xd8\xff",  # JPEG, MPO
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
    b"\xff\x0a",  # JPEG XL
    b"\0\0\0\x0cJXL \r\n\x87\n",
)
_BMP_HEADERS = frozenset((12, 16, 40, 52, 56, 64, 108, 124))
_BRANDS = frozenset(b"avif avis heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())


class Kind(Enum):
    """What a file's name says of it."""

    IMAGE = "image"
    OTHER = "other"
    UNKNOWN = "unknown"


def kind(name: bytes) -> Kind:
    """Return what the suffix of a file name says, in any case: an image, something else, or nothing."""
    if name[-4:] in _COMMON:
        return Kind.IMAGE
    _, dot, last = name.rpartition(b".")
    if dot:
        last = last.lower()
        if last in _IMAGES:
            return Kind.IMAGE
        if last in _OTHERS:
            return Kind.OTHER
    return Kind.UNKNOWN


def starts_like_an_image(head: bytes) -> bool:
    """Return whether a file that starts with these `HEAD_BYTES` bytes has a format that is decoded."""
    if head.startswith(_FORMATS):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[:2] == b"BM":
        return head[6:10] == b"\0\0\0\0" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    if head[4:8] == b"ftyp":
        box = head[8 : int.from_bytes(head[:4], "big")]
        return any(box[at : at + 4] in _BRANDS for at in range(0, len(box), 4))
    return False


def suffix(name: bytes) -> str:
    """Return the suffix by which a file that is not an image is counted: `.mp4`, in lower case; `NO_SUFFIX` if it has
    none.
    """
    _, dot, last = name.rpartition(b".")
    last = last.lower()
    return f".{last.decode()}" if dot and _READABLE.fullmatch(last) else NO_SUFFIX


class LeftOut(Counter[str]):
    """How many files of each suffix are not images; bounded, whatever the names are."""

    def add(self, suffix: str, files: int = 1) -> None:
        """Count `files` more of `suffix`, or of `OTHER_SUFFIXES` where there are too many different ones."""
        self[suffix if suffix in self or len(self) < _MOST_SUFFIXES else OTHER_SUFFIXES] += files


def merged(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of two counts by suffix, as bounded as each."""
    total = LeftOut(counts)
    for suffix, files in more.items():
        total.add(suffix, files)
    return dict(total)
