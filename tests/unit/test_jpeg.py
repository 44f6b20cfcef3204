"""Damage in a JPEG that the decoder would only warn of."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.errors import ImageError
from model.formats.jpeg import read_header
from model.preprocess import decode

KINDS: list[dict[str, Any]] = [
    {},
    {"optimize": True},
    {"subsampling": "4:4:4"},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 7},
    {"progressive": True},
]
SINGLE = KINDS[:-1]


def _photo(seed: int, mode: str = "RGB") -> Image.Image:
    """Something like a photo: shapes of all sizes under a little noise."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (320, 240))
    for side in (4, 16, 60):
        coarse = Image.fromarray(random.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8))
        image = Image.blend(image, coarse.resize(image.size, Image.Resampling.BICUBIC), 0.5)
    return image.convert(mode)


def _encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 85, **options})
    return file.getvalue()


def _start(data: bytes) -> int:
    header = read_header(data)
    assert header is not None
    return header.start


def _zeroed(data: bytes) -> bytes:
    length = len(data) // 10
    at = (len(data) - length) // 2
    return data[:at] + bytes(length) + data[at + length :]


def _lost(data: bytes) -> bytes:
    length = len(data) // 10
    at = (len(data) - length) // 2
    return data[:at] + data[at + length :]


def _as_text(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def _added(data: bytes) -> bytes:
    at = (_start(data) + len(data)) // 2
    return data[:at] + data[at + 50 : at + 550] + data[at:]


def _junk_after(data: bytes) -> bytes:
    return data[:-2] + b"not of the picture" + data[-2:]


def _code(data: bytes) -> str:
    with pytest.raises(ImageError) as refused:
        decode(data, 64)
    return refused.value.code


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", SINGLE, ids=str)
@pytest.mark.parametrize("harm", [_zeroed, _lost, _added, _junk_after])
def test_what_the_decoder_only_warns_of_is_damage(
    harm: Callable[[bytes], bytes], options: dict[str, Any], seed: int
) -> None:
    if harm is _added and options.get("restart_marker_rows"):
        return  # the decoder leaves out what is too much before a restart marker
    data = _encoded(_photo(seed), **options)
    assert _code(harm(data)) == "damaged"


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_transfer_as_text_is_damage(options: dict[str, Any]) -> None:
    # Into the header, too: there it may be that nothing can be decoded.
    codes = {_code(_as_text(_encoded(_photo(seed), **options))) for seed in range(4)}
    assert codes <= {"damaged", "undecodable"}


def test_zeros_are_told_in_a_progressive_one_too() -> None:
    found = []
    for seed in range(10):
        try:
            decode(_zeroed(_encoded(_photo(seed), progressive=True)), 64)
        except ImageError as exc:
            found.append(exc.code)
    assert set(found) == {"damaged"}  # not all of them: often what is left can be read to the end


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("size", [16, 64, 300])
def test_sound_ones_decode_to_what_they_were(mode: str, options: dict[str, Any], size: int) -> None:
    data = _encoded(_photo(2, mode), **options)
    plain = Image.open(io.BytesIO(data))
    plain.draft(None, (size, size))
    for given in (data, data + b"what follows the end marker", data.replace(b"\xff\xda", b"\xff\xff\xff\xda", 1)):
        pixels = decode(given, size)
        assert pixels.shape == (size, size, 3)
        expected = plain.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        assert np.abs(pixels.astype(int) - np.asarray(expected)).mean() < 8


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize("size", [(8, 8), (640, 480)])
def test_plain_areas_are_not_damage(options: dict[str, Any], level: int, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (level,) * 3)
    if size[0] > 100:
        image.paste(_photo(3), (100, 100))
    decode(_encoded(image, **options), 64)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_one_that_only_lacks_its_end_marker_is_whole(options: dict[str, Any]) -> None:
    for seed in range(6):
        data = _encoded(_photo(seed), **options)
        assert (decode(data[:-2], 64) == decode(data, 64)).all()
        assert (decode(data[:-1], 64) == decode(data, 64)).all()


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9, 0.98])
def test_one_that_ends_early_is_truncated(options: dict[str, Any], fraction: float) -> None:
    for seed in range(6):
        data = _encoded(_photo(seed), **options)
        assert _code(data[: int(len(data) * fraction)]) == "truncated"


@pytest.mark.parametrize("filling", [b"\0" * 40, b"\xff" * 3, b"\0"])
def test_what_cameras_fill_up_with_is_not_damage(filling: bytes) -> None:
    data = _encoded(_photo(0))
    assert (decode(data[:-2] + filling + data[-2:], 64) == decode(data, 64)).all()


def test_restart_markers_out_of_order() -> None:
    data = _encoded(_photo(0), restart_marker_rows=1)
    swapped = data.replace(b"\xff\xd1", b"\xff\x99").replace(b"\xff\xd2", b"\xff\xd1").replace(b"\xff\x99", b"\xff\xd2")
    assert _code(swapped) == "damaged"
