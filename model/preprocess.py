"""Bytes to array: the same for training's evaluation and for serving.

The whole picture is squished to a square. Nothing is decoded before its kind and its size are known to be acceptable.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Imported by name, so that Pillow never searches its other plugins: EPS, for one, would start Ghostscript.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from model import jpeg
from model.errors import ImageError
from model.jpeg import CUT_OFF

__all__ = ["FORMATS", "MAX_PIXELS", "Picture", "decode", "open_picture"]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "DIB")  # JPEG takes MPO along
MAX_PIXELS: Final = 50_000_000

# At a gap of 3 the cheap box reduction before the resampling cannot be told from none, says Pillow's reference.
_GAP: Final = 3.0
_ORIENTATION: Final = 0x0112
_BITS_PER_SAMPLE: Final = 258
_OTHER_KINDS: Final = (
    (0, b"%!PS", "an EPS or PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftyphev", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"),
    (4, b"ftypcrx", "a camera's raw file"),
    (4, b"ftyp", "a video"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (8, b"AVI ", "a video"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"\0\0\1\0", "an icon"),
    (0, b"icns", "an icon"),
    (0, b"gimp xcf", "a GIMP file"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"qoif", "a QOI image"),
    (0, b"v/1\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance image"),
    *((0, b"P%d" % kind, "a PNM image") for kind in range(1, 7)),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image whose header was read and found acceptable, ready to be decoded.

    `pixels`: how many the decoder will hold at once, by which the pipeline bounds its memory. `box`: what of the
    decoded image is picture; a reduced JPEG's last row and column may reach beyond it by a fraction.
    """

    image: Image.Image
    data: bytes
    size: int
    pixels: int
    box: tuple[float, float, float, float] | None

    def decode(self) -> NDArray[np.uint8]:
        """RGB, uint8 (size, size, 3), read-only, upright. Raises ImageError."""
        try:
            with self.image:
                if self.image.format in ("JPEG", "MPO"):
                    jpeg.load(self.image, self.data)
                else:
                    self.image.load()
                return _upright(_squish(self.image, self.size, self.box), _orientation(self.image))
        except Exception as exc:
            raise _failure(exc) from exc


def decode(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The whole picture squished to RGB, uint8 (size, size, 3), read-only.

    JPEG is decoded at a reduced scale never below `size`; EXIF orientation is applied; transparency is laid on white;
    16-bit samples keep their upper 8 bits; of an animation the first frame counts.
    Raises ImageError: `undecodable`, `truncated`, `unsupported`, or `too_large` above `max_pixels` (before decoding).
    """
    return open_picture(data, size, max_pixels=max_pixels).decode()


def open_picture(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Reads the header alone. Raises ImageError as `decode` does."""
    _quieten_pillow()
    _raise_pillows_limit(max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
    except Exception as exc:
        raise _unopened(exc, data) from exc
    if width * height > max_pixels:
        raise ImageError(
            "too_large",
            f"The image has {width} x {height} pixels; at most {max_pixels} are decoded (CARS_MAX_PIXELS).",
        )
    if width < 1 or height < 1:
        raise ImageError("undecodable", f"The image has {width} x {height} pixels.")
    # A progressive JPEG keeps the coefficients of its full size, whatever the scale it is decoded at.
    whole = image.info.get("progressive") is not None
    reduced = image.draft(None, (size, size))
    return Picture(image, data, size, width * height if whole else image.width * image.height, reduced and reduced[1])


def _squish(image: Image.Image, size: int, box: tuple[float, float, float, float] | None) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        image = _upper_eight_bits(image)
    elif image.mode == "La":
        image = image.convert("LA").convert("RGBA")
    elif image.mode not in ("I", "F", "RGBA") and image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("I", "F", "L", "RGB", "RGBA"):
        image = image.convert("RGB")
    small = image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=_GAP)
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small)
    elif small.mode in ("I", "F"):
        small = Image.fromarray(_to_eight_bits(np.asarray(small, dtype=np.float64), image.getextrema()))
    if small.mode != "RGB":
        small = small.convert("RGB")
    return np.frombuffer(small.tobytes(), dtype=np.uint8).reshape(size, size, 3)


def _upper_eight_bits(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    shift = 4 if tags.get(_BITS_PER_SAMPLE) == (12,) else 8
    return Image.fromarray((np.asarray(image) >> shift).astype(np.uint8))


def _to_eight_bits(samples: NDArray[np.float64], extrema: Any) -> NDArray[np.uint8]:
    """Samples without a declared range: the extremes tell 0 to 1, 0 to 255 and 0 to 65535; others are stretched."""
    low, high = (float(value) for value in extrema)
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = samples[np.isfinite(samples)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < 0 or high > 65535:
        base, span = low, max(high - low, 1e-12)
    else:
        base, span = 0.0, next(limit for limit in (1.0, 255.0, 65535.0) if high <= limit)
    scaled = np.nan_to_num((samples - base) * (255 / span), nan=0.0, posinf=255.0, neginf=0.0)
    return scaled.round().clip(0, 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Broken metadata is common and no reason to refuse a picture that was decoded.
        return 1
    return found if isinstance(found, int) else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns the square: EXIF 2.32, table 6, value 1 to 8; others count as 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _unopened(exc: Exception, data: bytes) -> ImageError:
    if not isinstance(exc, UnidentifiedImageError):
        return ImageError("truncated", CUT_OFF) if _is_cut_off(data) else _failure(exc)
    if not data:
        return ImageError("undecodable", "The file is empty.")
    for offset, magic, kind in _OTHER_KINDS:
        if data.startswith(magic, offset):
            return ImageError("unsupported", f"The file is {kind}; convert it to JPEG, PNG, WebP, AVIF or TIFF.")
    if _is_cut_off(data):
        return ImageError("truncated", CUT_OFF)
    return ImageError("undecodable", "The file is no image, or its header is damaged.")


def _is_cut_off(data: bytes) -> bool:
    """Whether a container says that it is longer than the data, where Pillow does not tell."""
    if data[:4] == b"RIFF":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") >= len(data)
    return False


def _failure(exc: Exception) -> ImageError:
    """Garbage makes Pillow raise nearly anything; each of it is this image's failure and no other's."""
    text = " ".join(str(exc).split())[:200] or type(exc).__name__
    if isinstance(exc, ImageError):
        return exc
    if isinstance(exc, Image.DecompressionBombError | MemoryError):
        return ImageError("too_large", "The image has, or claims to have, more pixels than can be decoded.")
    if isinstance(exc, EOFError) or "truncated" in text.lower():
        return ImageError("truncated", CUT_OFF)
    return ImageError("undecodable", f"The picture cannot be decoded: {text}.")


def _raise_pillows_limit(max_pixels: int) -> None:
    """Pillow's process-wide limit stays as a second net and is only ever raised, to admit `max_pixels`."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def _quieten_pillow() -> None:
    """Keeps Pillow's warnings (odd metadata, size) from the log, and from deciding what decodes where they are errors.

    `catch_warnings` is not safe with threads, hence a standing filter, put first again when another took its place.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=_PILLOW)


_PILLOW: Final = r"PIL\."
warnings.filterwarnings("ignore", module=_PILLOW)
_QUIET: Final = warnings.filters[0]
