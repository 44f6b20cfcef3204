import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.errors import ImageError
from model.formats import jxl
from model.preprocess import decode, open_image

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _quarters(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red, green above blue, grey."""
    width, height = size[0] // 2, size[1] // 2
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (width, 0, size[0], height))
    image.paste(BLUE, (0, height, width, size[1]))
    image.paste(GREY, (width, height, *size))
    return image


def _corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """The colours in the middle of the quarters, rounded to tens."""
    quarter = len(pixels) // 4
    places = ((quarter, quarter), (quarter, -quarter), (-quarter, quarter), (-quarter, -quarter))
    return [tuple((pixels[place].astype(int) + 5) // 10 * 10) for place in places]


UPRIGHT = [RED, GREEN, BLUE, GREY]


def _photo(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
        ("GIF", {}),
        ("BMP", {}),
        ("DIB", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("AVIF", {"quality": 95}),
        ("MPO", {"quality": 95}),
    ],
)
def test_every_format_is_squished_to_the_whole_picture(kind: str, options: dict[str, Any]) -> None:
    pixels = decode(_encoded(_quarters(), kind, **options), 16)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(np.array(_corners(pixels)) - UPRIGHT).max() <= 10


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"), ("1", "TIFF"), ("L", "PNG"), ("L", "JPEG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"),
        ("RGB", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("CMYK", "JPEG"), ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"), ("LAB", "TIFF"), ("I", "TIFF"), ("F", "TIFF"), ("I;16", "PNG"), ("I;16", "TIFF"),
        ("PA", "PNG"),
    ],
)  # fmt: skip
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    grey = Image.new("L", (8, 8), 0)
    grey.paste(255, (0, 0, 4, 8))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.merge("LAB", [grey, Image.new("L", (8, 8), 128), Image.new("L", (8, 8), 128)])
    elif mode == "PA":
        image = grey.convert("P").convert("PA")
    else:
        image = grey.convert("RGB").convert(mode)
    if mode == "PA":
        # Written as a palette with transparency, the nearest that PNG has.
        image = image.convert("RGBA").quantize(4)
    pixels = decode(_encoded(image, kind), 8).astype(int)
    assert pixels[:, 1].min() > 245
    assert pixels[:, 6].max() < 10


def test_sixteen_bits_keep_their_upper_eight() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for image in (Image.fromarray(ramp), Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes())):
        pixels = decode(_encoded(image, "TIFF"), 16)
        assert (pixels[..., 0] == ramp >> 8).all()


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0, 1e9])
def test_floats_are_scaled_by_the_range_they_have(top: float) -> None:
    image = Image.fromarray(np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8))
    pixels = decode(_encoded(image, "TIFF"), 8)[..., 0].astype(int)
    assert pixels[0, 0] == 0
    assert pixels[-1, -1] == 255
    assert abs(int(np.median(pixels)) - 127) <= 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.5, 0.0])
def test_floats_that_are_not_brightness_do_no_harm(value: float) -> None:
    samples = np.full((8, 8), value, dtype=np.float32)
    assert decode(_encoded(Image.fromarray(samples), "TIFF"), 8).shape == (8, 8, 3)
    samples[0] = 1.0
    assert decode(_encoded(Image.fromarray(samples), "TIFF"), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    clear, half = (Image.new("RGBA", (16, 16), (255, 0, 0, alpha)) for alpha in (0, 128))
    options = {} if kind in ("PNG", "TIFF") else {"quality": 95}
    assert decode(_encoded(clear, kind, **options), 8).min() >= 250
    assert np.allclose(decode(_encoded(half, kind, **options), 8), (255, 127, 127), atol=6)


def test_a_transparent_palette_entry_and_colour_are_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    for kind in ("PNG", "GIF"):
        assert decode(_encoded(palette, kind, transparency=1), 8).min() == 255
    assert decode(_encoded(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED), 8).min() == 255
    assert decode(_encoded(Image.new("L", (8, 8), 9), "PNG", transparency=9), 8).min() == 255


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"):
        pixels = decode(_encoded(frames[0], kind, save_all=True, append_images=frames[1:]), 4)
        assert np.allclose(pixels, RED, atol=12), kind


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    stored_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = _quarters()
    stored = image.transpose(stored_by[orientation]) if orientation > 1 else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "AVIF") else {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(_encoded(stored, kind, exif=exif, **options), 16)
    assert np.abs(np.array(_corners(pixels)) - UPRIGHT).max() <= 10


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert np.allclose(decode(_encoded(Image.new("RGB", (8, 8), RED), "JPEG", exif=exif), 8), RED, atol=6)


@pytest.mark.parametrize("size", [(500, 375), (1280, 960), (449, 470), (2000, 300)])
@pytest.mark.parametrize("target", [64, 224])
def test_reduced_decoding_is_close_to_full_decoding(size: tuple[int, int], target: int) -> None:
    data = _encoded(_photo(*size), "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as image:
        full = np.asarray(image.convert("RGB").resize((target, target), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode(data, target) - full).mean() < 2.5


def test_a_photo_is_decoded_with_fewer_pixels_than_it_has() -> None:
    photo = _photo(1280, 960)
    reduced = open_image(_encoded(photo, "JPEG"), 224)
    assert reduced.pixels == 320 * 240
    # A progressive file keeps its coefficients in full, and PNG knows no reduced decoding.
    assert open_image(_encoded(photo, "JPEG", progressive=True), 224).pixels == 1280 * 960
    assert open_image(_encoded(photo, "PNG"), 224).pixels == 1280 * 960


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (50_000_001, 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    # There is not one pixel in the file: had it been decoded, it would be `truncated`.
    with pytest.raises(ImageError) as refused:
        decode(_png_header(*size), 8)
    assert refused.value.code == "too_large"


def test_the_limit_itself_is_allowed() -> None:
    data = _encoded(_quarters((60, 50)), "PNG")
    assert decode(data, 8, max_pixels=3000).shape == (8, 8, 3)
    with pytest.raises(ImageError, match="2,999") as refused:
        decode(data, 8, max_pixels=2999)
    assert refused.value.code == "too_large"


def test_pillows_own_limit_does_not_bite_below_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(_encoded(_quarters((60, 50)), "PNG"), 8, max_pixels=3000).shape == (8, 8, 3)


def _chunk(kind: bytes, body: bytes, *, sound: bool = True) -> bytes:
    checksum = zlib.crc32(kind + body) ^ (not sound)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"tEXt", b"Comment\0hello", sound=False),
        _chunk(b"tIME", b"\7\xea\1\2\3\4\5", sound=False),
        _chunk(b"gAMA", struct.pack(">I", 45455), sound=False),
        _chunk(b"gAMA", b"\0"),
        _chunk(b"pHYs", b"\0\0"),
        _chunk(b"sRGB", b""),
        _chunk(b"cHRM", b"\1"),
        _chunk(b"iCCP", b"name\0\0no zlib data"),
        _chunk(b"iCCP", b"name\0\7"),
        _chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(100 << 20))),
        _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20))),
        _chunk(b"zTXt", b"Comment\0\7"),
        _chunk(b"iTXt", b"Comment\0\1\0\0\0no zlib data"),
        _chunk(b"tEXt", b"Comment\0" + b"x" * (70 << 20)),
        _chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        _chunk(b"acTL", b"\0"),
        _chunk(b"prVt", b"of some program", sound=False),
    ],
    ids=lambda chunk: f"{chunk[4:8].decode()}-{len(chunk)}",
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_faults_in_what_a_png_says_of_itself_do_not_matter(chunk: bytes, place: str) -> None:
    data = _encoded(_quarters(), "PNG")
    at = 33 if place == "before" else len(data) - 12
    assert (decode(data[:at] + chunk + data[at:], 8) == decode(data, 8)).all()


def test_a_png_keeps_its_orientation_where_other_metadata_are_broken() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encoded(_quarters(), "PNG", exif=exif)
    assert (decode(data[:33] + _chunk(b"pHYs", b"\0") + data[33:], 8) == decode(data, 8)).all()
    assert not (decode(data, 8) == decode(_encoded(_quarters(), "PNG"), 8)).all()


@pytest.mark.parametrize("fraction", [0.3, 0.9])
def test_broken_metadata_hide_no_broken_picture(fraction: float) -> None:
    data = _encoded(_photo(160, 120), "PNG")
    data = data[:33] + _chunk(b"pHYs", b"\0") + data[33:]
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * fraction)], 8)


@pytest.mark.parametrize("options", [{"quality": 95}, {"lossless": True}])
@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_formats_of_other_packages(kind: str, options: dict[str, Any], mode: str) -> None:
    if kind == "HEIF":
        options = {"quality": -1 if "lossless" in options else 95}
    quarters = _quarters((96, 64)).convert(mode)
    pixels = decode(_encoded(quarters, kind, **options), 16).astype(int)
    expected = decode(_encoded(quarters, "PNG"), 16).astype(int)
    assert np.abs(pixels - expected).mean() < 6


@pytest.mark.parametrize("container", [True, False])
@pytest.mark.parametrize(
    "size",
    [(1, 1), (8, 8), (256, 256), (257, 100), (100, 257), (640, 480), (480, 640), (1920, 1080), (3000, 17), (60, 50)],
)
def test_the_size_of_a_jpeg_xl_is_told_by_its_header(size: tuple[int, int], container: bool) -> None:
    data = _encoded(Image.new("RGB", size, RED), "JXL", use_container=container, effort=1)
    assert jxl.pixel_size(data) == size
    for length in (2, 3, len(data) // 2):
        with pytest.raises(ImageError):
            decode(data[:length], 8)
    with pytest.raises(ImageError, match=f"{size[0]} x {size[1]}") as refused:
        decode(data, 8, max_pixels=size[0] * size[1] - 1)
    assert refused.value.code == "too_large"


def test_heif_is_turned_upright_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(_encoded(_quarters((96, 64)), "HEIF", exif=exif.tobytes(), quality=95), 16)
    assert np.abs(np.array(_corners(turned)) - [BLUE, RED, GREY, GREEN]).max() <= 20


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.95])
def test_a_cut_heif_or_avif_is_truncated(kind: str, fraction: float) -> None:
    data = _encoded(_photo(160, 120), kind)
    with pytest.raises(ImageError) as refused:
        decode(data[: int(len(data) * fraction)], 16)
    assert refused.value.code == "truncated"


def test_the_limit_counts_what_the_decoder_holds() -> None:
    photo = _photo(1280, 960)
    assert decode(_encoded(photo, "JPEG"), 64, max_pixels=160 * 120).shape == (64, 64, 3)
    for kind, options in (("JPEG", {"progressive": True}), ("PNG", {}), ("HEIF", {}), ("WEBP", {})):
        with pytest.raises(ImageError, match=r"1280 x 960 .* 1,000,000 .*CARS_MAX_PIXELS") as refused:
            decode(_encoded(photo, kind, **options), 64, max_pixels=1_000_000)
        assert refused.value.code == "too_large"
    with pytest.raises(ImageError, match=r"1280 x 960 .* 19,200 at the scale .* 19,199 .*CARS_MAX_PIXELS"):
        decode(_encoded(photo, "JPEG"), 64, max_pixels=160 * 120 - 1)


def test_a_phones_largest_photos_are_decoded() -> None:
    data = _encoded(Image.new("L", (16320, 12240), 130), "JPEG")
    picture = open_image(data, 224)
    assert picture.pixels == 2040 * 1530
    assert (picture.decode() == 130).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO"])
@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_a_file_cut_off_is_truncated(kind: str, fraction: float) -> None:
    data = _encoded(_photo(160, 120), kind)
    with pytest.raises(ImageError) as refused:
        decode(data[: int(len(data) * fraction)], 16)
    assert refused.value.code == "truncated"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "undecodable"),
        (b"<html>not found</html>", "undecodable"),
        (bytes(1000), "undecodable"),
        (b"\xff\xd8\xff", "undecodable"),
        (b"\x89PNG\r\n\x1a\n", "undecodable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported"),
        (b"8BPS\0\1" + bytes(50), "unsupported"),
        (b"%PDF-1.7\n", "unsupported"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "undecodable"),
        (b"\0\0\0\x18ftypcrx " + bytes(50), "unsupported"),
        (b"\0\0\0\x18ftypmp42" + bytes(50), "unsupported"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
        (b"P6 1 1 255\n\1\2\3", "unsupported"),
    ],
)
def test_what_is_not_a_picture_we_take_is_told_apart(data: bytes, code: str) -> None:
    with pytest.raises(ImageError) as refused:
        decode(data, 8)
    assert refused.value.code == code
    assert refused.value.message


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML><title>403\n Forbidden</title>", "undecodable", "a web page ('403 Forbidden')"),
        (b"<html><body>gone</body></html>", "undecodable", "a web page,"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>No</Message></Error>', "undecodable",
         "an error message of a file store (AccessDenied)"),
        (b'{"error": "not found"}', "undecodable", "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "undecodable", "git lfs pull"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "undecodable", "the answer of a web server"),
        (b"plain words, in \xc3\xa9", "undecodable", "a text"),
        (b"\x1f\x8b\x08\0" + bytes(range(256)), "unsupported", "compressed with gzip; unpack it"),
        (b"PK\3\4" + bytes(50), "unsupported", "a ZIP archive"),
        (b"\0\0\0\x18ftypisom" + bytes(50), "unsupported", "a video"),
        (b"\0\0\0\x18ftypqt  " + bytes(50), "unsupported", "a video"),
        (b"\0\0\0\x18ftypabcd" + bytes(50), "unsupported", "of the kind 'abcd'"),
        (b"\0\0\0\x18ftypavif" + bytes(50), "undecodable", "AVIF"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avif", "truncated", "ends before"),
        (b"\x89PNG\n\x1a\n" + bytes(50), "damaged", "as if it were text"),
        (bytes(1000), "undecodable", "nothing but zeros"),
        (b"\x93\x07" * 50, "undecodable", "not an image"),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_a_file_that_is_not_an_image_is_called_what_it_is(data: bytes, code: str, said: str) -> None:
    with pytest.raises(ImageError) as refused:
        decode(data, 8)
    assert refused.value.code == code
    assert said in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("kind", ["ICO", "JPEG2000", "TGA", "PCX", "PPM", "EPS"])
def test_formats_that_pillow_could_read_and_we_do_not_take(kind: str) -> None:
    with pytest.raises(ImageError) as refused:
        decode(_encoded(_quarters((32, 32)), kind), 8)
    assert refused.value.code in ("unsupported", "undecodable")


SEEDS = [
    _encoded(_quarters((20, 14)), kind)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "MPO", "AVIF", "HEIF", "JXL")
] + [_encoded(_quarters((20, 14)), "TIFF", compression="tiff_lzw")]  # fmt: skip


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=12),
    st.integers(0, 99),
)
def test_damaged_bytes_give_a_picture_or_an_image_error(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(data)] = value
    # Whatever else is raised fails the test; that the code is one of the known ones, ImageError itself sees to.
    with contextlib.suppress(ImageError):
        assert decode(bytes(damaged[: len(data) - cut]), 8).shape == (8, 8, 3)


@pytest.mark.shared
def test_every_awkward_image_is_decoded_or_refused(shared: Path) -> None:
    folder = shared / "awkward_images"
    undecodable = set((folder / "undecodable.txt").read_text().split())
    refused, files = set(), sorted((folder / "images").iterdir())
    for file in files:
        try:
            assert decode(file.read_bytes(), 64).shape == (64, 64, 3)
        except ImageError:
            refused.add(file.name)
    # Of these only the metadata are broken.
    assert undecodable - refused == {"png_decompression_dos.png", "unknown_compression_method.png"}
    assert refused < undecodable
    assert len(files) > len(refused) > 0


@pytest.mark.shared
def test_pictures_stored_in_every_orientation_look_alike(shared: Path) -> None:
    folder = shared / "awkward_images" / "images"
    for pattern in ("hopper_orientation_*.jpg", "hopper_orientation_*.webp", "g4_orientation_*.tif", "avif__rot*.avif"):
        pictures = [decode(file.read_bytes(), 32).astype(int) for file in sorted(folder.glob(pattern))]
        assert len(pictures) > 3
        assert max(np.abs(picture - pictures[0]).mean() for picture in pictures) < 12, pattern
