"""The process that decodes and classifies single photos for others, and what happens when a photo ends it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageDraw

from jobs import Client
from jobs.errors import PreviewUnavailable
from jobs.preview import Preview
from jobs.settings import load
from jobs.states import ImageFailure
from tests.support.processes import CHECKOUT, RunCars, wait_until

DIES = """
import os, sys
from jobs.preview import Frame, read_frame, write_frame
out = sys.stdout.buffer
write_frame(out, Frame({"ready": True}))
while (frame := read_frame(sys.stdin.buffer)) is not None:
    if frame.data == b"deadly":
        os.kill(os.getpid(), 9)
    while frame.data == b"endless":
        pass
    write_frame(out, Frame({}, frame.data))
"""


def jpeg(width: int, height: int, **options: object) -> bytes:
    image = Image.new("RGB", (width, height), "navy")
    ImageDraw.Draw(image).rectangle((0, 0, width // 2, height // 2), fill="orange")
    target = io.BytesIO()
    image.save(target, "JPEG", **options)
    return target.getvalue()


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let children find the checkout, as those of a command do."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))


@pytest.fixture
def preview(home: Path) -> Iterator[Preview]:
    """Return a preview by the real child."""
    opened = Preview(load())
    yield opened
    opened.close()


@pytest.fixture
def scripted(home: Path) -> Iterator[Preview]:
    """Return a preview whose child does as the photo says."""
    opened = Preview(load(), command=[sys.executable, "-P", "-c", DIES], seconds=2.0)
    yield opened
    opened.close()


def test_a_thumbnail_is_upright_small_and_has_no_metadata(preview: Preview) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010E] = "where it was taken"
    made = preview.thumbnail(jpeg(640, 320, exif=exif), size=128)
    assert isinstance(made, bytes)
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.size) == ("JPEG", (64, 128))
        assert not image.getexif()
        corner = image.convert("RGB").getpixel((60, 4))
        assert isinstance(corner, tuple)
        assert corner[0] > corner[2], "orange is at the upper right now"


def test_a_small_photo_is_not_enlarged(preview: Preview) -> None:
    made = preview.thumbnail(jpeg(40, 30), size=128)
    assert isinstance(made, bytes)
    with Image.open(io.BytesIO(made)) as image:
        assert image.size == (40, 30)


def test_what_cannot_be_decoded_fails_as_in_a_job(home: Path, preview: Preview) -> None:
    limited = Preview(load(max_pixels=1000))
    try:
        bomb = limited.thumbnail(jpeg(640, 320), size=128)
    finally:
        limited.close()
    garbage, cut_off = (preview.thumbnail(data, size=128) for data in (b"no photo", jpeg(640, 320)[:2000]))
    codes = [answer.code for answer in (bomb, garbage, cut_off) if isinstance(answer, ImageFailure)]
    assert codes == ["too_large", "undecodable", "truncated"]


def test_a_photo_that_kills_the_child_fails_alone(scripted: Preview) -> None:
    first = scripted.thumbnail(b"fine", size=8)
    before = scripted.pid
    deadly = scripted.thumbnail(b"deadly", size=8)
    after = scripted.thumbnail(b"fine", size=8)
    assert (first, after) == (b"fine", b"fine")
    assert isinstance(deadly, ImageFailure)
    assert deadly.code == "worker_crashed"
    assert scripted.pid != before


def test_a_photo_that_takes_too_long_is_given_up(scripted: Preview) -> None:
    endless = scripted.thumbnail(b"endless", size=8)
    assert isinstance(endless, ImageFailure)
    assert "longer than 2 s" in endless.message
    assert scripted.thumbnail(b"fine", size=8) == b"fine"


def test_a_child_that_ended_between_two_photos_is_replaced(scripted: Preview) -> None:
    assert scripted.thumbnail(b"fine", size=8) == b"fine"
    assert scripted.pid
    child = psutil.Process(scripted.pid)
    child.kill()
    wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE, message="the child's end")
    assert scripted.thumbnail(b"fine", size=8) == b"fine"


def test_a_child_that_does_not_start_is_said(home: Path) -> None:
    broken = Preview(load(), command=[sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(PreviewUnavailable, match="does not start"):
        broken.thumbnail(b"fine", size=8)
    broken.close()


def test_after_closing_there_is_no_child(preview: Preview) -> None:
    assert isinstance(preview.thumbnail(jpeg(8, 8), size=8), bytes)
    preview.close()
    assert preview.pid is None
    with pytest.raises(PreviewUnavailable, match="closed"):
        preview.thumbnail(jpeg(8, 8), size=8)


def test_a_classification_is_that_of_a_job(
    home: Path, preview: Preview, photos: Callable[..., Path], run_cars: RunCars
) -> None:
    folder = photos(1, 64)
    assert run_cars("classify", folder).returncode == 0
    with Client() as client:
        (expected,) = client.results()
    (file,) = folder.iterdir()
    found = preview.classify(file.read_bytes(), version="production", top_k=5)
    assert isinstance(found, dict)
    assert found == {name: value for name, value in expected.to_dict().items() if name in found}
    assert {"label", "make", "year", "confidence", "decision", "top", "model_version", "content_hash"} <= found.keys()


def test_a_version_that_is_not_there_is_said(home: Path, preview: Preview) -> None:
    with Client() as client:
        client.models()
    with pytest.raises(PreviewUnavailable, match="no model version 'other'"):
        preview.classify(jpeg(8, 8), version="other", top_k=5)
