"""Which files are images, by name and by first bytes."""

import io

import pytest
from PIL import Image

from jobs.sources.kinds import HEAD_BYTES, NO_SUFFIX, OTHER_SUFFIXES, Kind, LeftOut, kind, merged, suffix
from jobs.sources.kinds import starts_like_an_image as starts
from model.data.readers import IMAGE_SUFFIXES
from tests.support.processes import CHECKOUT

IMAGES = "jpg jpeg jpe jfif pjpeg png webp gif bmp tif tiff avif heic heif hif jxl mpo"


@pytest.mark.parametrize("ending", [*IMAGES.split(), "JPG", "Jpeg", "HEIC"])
def test_images_by_suffix(ending: str) -> None:
    assert kind(b"photo." + ending.encode()) is Kind.IMAGE
    assert kind(b"a.txt." + ending.encode()) is Kind.IMAGE


@pytest.mark.parametrize("name", [b"notes.txt", b"a.csv", b"jpg.XML", b"clip.MP4", b"a.pdf", b"a.jpg.json", b"raw.CR2"])
def test_what_is_known_as_something_else_is_never_looked_into(name: bytes) -> None:
    assert kind(name) is Kind.OTHER


@pytest.mark.parametrize(
    "name",
    [b"photo", b"12345", b"\xff", b"trailing.", b"a.jpg.1", b"b.jpg?w=800&h=600", b"c.jpg_640x640", b"d.jpg ",
     b"BMW 3.0 front", b"a.j\xff", b"photo.jpg.part", b"jpg"],
)  # fmt: skip
def test_other_names_say_nothing(name: bytes) -> None:
    assert kind(name) is Kind.UNKNOWN


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JXL", "MPO"])
def test_the_first_bytes_of_every_format(format: str) -> None:
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if format == "JXL":
        pytest.importorskip("pillow_jxl")
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, format)
    assert starts(file.getvalue()[:HEAD_BYTES])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xd8",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0AVI LIST",
        b"BM is how this text begins, without a header",
        b"%PDF-1.7",
        b"<!DOCTYPE html>",
        b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
        b"\0\0\0\x14ftypqt  \0\0\2\0qt  heic",  # past the box of brands
    ],
)
def test_what_starts_like_no_image(head: bytes) -> None:
    assert not starts(head)


@pytest.mark.parametrize(
    ("name", "counted"),
    [(b"A.MP4", ".mp4"), (b"a.tar.gz", ".gz"), (b"README", NO_SUFFIX), (b"a.", NO_SUFFIX), (b"b.jpg?w=8", NO_SUFFIX),
     (b"a.\xff", NO_SUFFIX), (b"a.much-too-long-for-a-suffix", NO_SUFFIX)],
)  # fmt: skip
def test_the_suffix_a_file_is_counted_by(name: bytes, counted: str) -> None:
    assert suffix(name) == counted


def test_counts_are_bounded_however_many_suffixes_there_are() -> None:
    counts = LeftOut()
    for number in range(1000):
        counts.add(f".{number}")
    more = merged(dict(counts), {".new": 5, ".3": 1})
    assert len(more) <= 101
    assert sum(more.values()) == 1006
    assert (more[OTHER_SUFFIXES], more[".3"]) == (905, 2)


def test_the_photos_of_a_data_set_have_the_same_suffixes() -> None:
    assert {f".{ending}" for ending in IMAGES.split()} == IMAGE_SUFFIXES


def test_the_list_is_that_of_the_docs() -> None:
    page = (CHECKOUT / "docs" / "commands.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("Files are images"))
    assert [f".{ending}" for ending in IMAGES.split()] == line.partition("`")[2].partition("`")[0].split()
