"""Bytes to array: the same for training's evaluation and for serving.

The whole image is squished to a square. Nothing is decoded before its kind and its size are known to be acceptable.
"""

import contextlib
import io
import re
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

from model.errors import TOO_LARGE, TRUNCATED, UNDECODABLE, UNSUPPORTED, ImageError
from model.formats import jpeg, jxl, png
from model.formats.file_kinds import AVIF_BRANDS, HEIF_BRANDS, is_cut_off, isobmff_brands, no_image
from model.formats.jpeg import CUT_OFF

__all__ = ["FORMATS", "MAX_PIXELS", "MEAN", "STD", "OpenedImage", "decode", "open_image"]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "DIB")  # JPEG takes MPO along
MAX_PIXELS: Final = 50_000_000
MEAN: Final = (0.485, 0.456, 0.406)  # of ImageNet, as pretrained weights expect, RGB on the scale 0 to 1
STD: Final = (0.229, 0.224, 0.225)


def _registered() -> tuple[str, ...]:
    """Return the formats that other packages decode, of those that are installed; each with one thread, beside other
    images, and the whole image, not a thumbnail of it.
    """
    found = []
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
        found.append("HEIF")
    with contextlib.suppress(ImportError):
        from pillow_jxl import JpegXLImagePlugin

        JpegXLImagePlugin.DECODE_THREADS = 0
        found.append("JXL")
    return tuple(found)


_PLUGINS: Final = _registered()

# At a gap of 3 the cheap box reduction before the resampling cannot be told from none, says Pillow's reference.
_GAP: Final = 3.0
_SMALLEST_SCALE: Final = 64  # an eighth of the width by an eighth of the height
_ORIENTATION: Final = 0x0112
_TURNED: Final = (5, 6, 7, 8)  # width and height change places
_BITS_PER_SAMPLE: Final = 258


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image whose header was read and found acceptable, ready to be decoded.

    `pixels`: how many the decoder will hold at once, by which the pipeline bounds its memory. `box`: what of the
    decoded pixels is the image; a reduced JPEG's last row and column may reach beyond it by a fraction. `image`: None
    for JPEG XL, whose decoder reads no header alone.
    """

    image: Image.Image | None
    data: bytes
    size: int
    pixels: int
    box: tuple[float, float, float, float] | None

    def decode(self) -> NDArray[np.uint8]:
        """Return the RGB image, uint8 (size, size, 3), read-only, upright. Raises ImageError."""
        return self.with_shape()[0]

    def with_shape(self) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """Return the same, and the (width, height) in pixels, upright, of what was squished. Raises ImageError."""
        try:
            return self._decoded(self.image or Image.open(io.BytesIO(self.data), formats=("JXL",)), self.data)
        except Exception as exc:
            if (rest := png.without_metadata(self.data)) is not None:
                with contextlib.suppress(Exception):
                    return self._decoded(Image.open(io.BytesIO(rest), formats=("PNG",)), rest)
            raise _failure(exc, self.data) from exc

    def _decoded(self, image: Image.Image, data: bytes) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        with image:
            if image.format in ("JPEG", "MPO"):
                jpeg.load(image, data)
            else:
                image.load()
            orientation = _orientation(image)
            shape = image.size[::-1] if orientation in _TURNED else image.size
            return _upright(_squish(image, self.size, self.box), orientation), shape


def decode(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the whole image squished to RGB, uint8 (size, size, 3), read-only.

    JPEG is decoded at a reduced scale never below `size`; EXIF orientation is applied; transparency is laid on white;
    16-bit samples keep their upper 8 bits; of an animation the first frame counts. Faults in metadata do not matter.
    Raises ImageError: `undecodable`, `truncated`, `damaged`, `unsupported`, or `too_large` where more than `max_pixels`
    would be in memory at once (before decoding).
    """
    return open_image(data, size, max_pixels=max_pixels).decode()


def open_image(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> OpenedImage:
    """Read the header alone. Raises ImageError as `decode` does."""
    _quieten_pillow()
    _raise_pillows_limit(max_pixels)
    if jxl.is_jxl(data) and "JXL" in _PLUGINS:
        return _open_jxl(data, size, max_pixels=max_pixels)
    image = _open(data, max_pixels=max_pixels)
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(UNDECODABLE, f"the image has {width} x {height} pixels")
    reduced = image.draft(None, (size, size)) if image.format in ("JPEG", "MPO") else None
    in_memory = image.width * image.height
    if reduced and not _is_reducible(data):
        in_memory = width * height
    _check_pixels((width, height), in_memory, max_pixels=max_pixels)
    return OpenedImage(image, data, size, in_memory, reduced and reduced[1])


def _open(data: bytes, *, max_pixels: int) -> Image.Image:
    brands = isobmff_brands(data)
    if brands & HEIF_BRANDS and not brands & AVIF_BRANDS and "HEIF" not in _PLUGINS:
        raise ImageError(UNSUPPORTED, "the file is a HEIC image, which needs the package pillow-heif; install it")
    formats = (("AVIF",) if brands & AVIF_BRANDS else _PLUGINS) if brands else FORMATS
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except Exception as exc:
        if (rest := png.without_metadata(data)) is not None:
            with contextlib.suppress(Exception):
                return Image.open(io.BytesIO(rest), formats=("PNG",))
        if isinstance(exc, Image.DecompressionBombError):
            raise _too_many(str(exc), max_pixels=max_pixels) from exc
        raise (no_image(data) if isinstance(exc, UnidentifiedImageError) else _failure(exc, data)) from exc


def _is_reducible(data: bytes) -> bool:
    """Return whether a JPEG's decoder holds no more than the reduced image: with several scans, as in a progressive
    one, it keeps the coefficients of the full size, whatever the scale it is decoded at.
    """
    header = jpeg.read_header(data)
    return header is not None and header.single_scan


def _open_jxl(data: bytes, size: int, *, max_pixels: int) -> OpenedImage:
    try:
        width, height = jxl.pixel_size(data)
    except ValueError as exc:
        raise ImageError(UNDECODABLE, f"the JPEG XL image cannot be decoded: {exc}") from exc
    _check_pixels((width, height), width * height, max_pixels=max_pixels)
    return OpenedImage(None, data, size, width * height, None)


def _check_pixels(size: tuple[int, int], in_memory: int, *, max_pixels: int) -> None:
    width, height = size
    if in_memory > max_pixels:
        of_it = "" if in_memory == width * height else f", {in_memory:,} at the scale at which it is decoded"
        raise _too_many(f"the image has {width} x {height} = {width * height:,} pixels{of_it}", max_pixels=max_pixels)


def _too_many(said: str, *, max_pixels: int) -> ImageError:
    claimed = re.match(r"Image size \((\d+) pixels\)", said)
    said = f"the image claims to have {int(claimed[1]):,} pixels" if claimed else said
    advice = f"at most {max_pixels:,} are decoded (CARS_MAX_PIXELS); make it smaller, or raise that setting"
    return ImageError(TOO_LARGE, f"{said}; {advice}")


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
    """Return samples without a declared range: the extremes tell 0 to 1, 0 to 255 and 0 to 65535; others stretch."""
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
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # its decoder has turned it; EXIF data may still say how it was
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Broken metadata is common and no reason to refuse an image that was decoded.
        return 1
    return found if isinstance(found, int) else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn the square: EXIF 2.32, table 6, value 1 to 8; others count as 1."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _failure(exc: Exception, data: bytes) -> ImageError:
    """Return the image's error: garbage makes Pillow raise nearly anything, and each is this image's failure alone."""
    text = " ".join(str(exc).split())[:200] or type(exc).__name__
    if isinstance(exc, ImageError):
        return exc
    if isinstance(exc, MemoryError):
        return ImageError(TOO_LARGE, "the image needs more memory than there is; make it smaller")
    if isinstance(exc, EOFError) or "truncated" in text.lower() or is_cut_off(data):
        return ImageError(TRUNCATED, CUT_OFF)
    return ImageError(UNDECODABLE, f"the image cannot be decoded: {text.rstrip('.')}")


def _raise_pillows_limit(max_pixels: int) -> None:
    """Raise Pillow's process-wide limit on what a header says, which stays as a second net, to admit
    `max_pixels` of a JPEG at its smallest scale.
    """
    if Image.MAX_IMAGE_PIXELS is not None and _SMALLEST_SCALE * max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = _SMALLEST_SCALE * max_pixels


def _quieten_pillow() -> None:
    """Keep Pillow's warnings (odd metadata, size) from the log, and from deciding what decodes where they are errors.

    `catch_warnings` is not safe with threads, hence a standing filter, put first again when another took its place.
    """
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=_PILLOW)


_PILLOW: Final = r"PIL\."
warnings.filterwarnings("ignore", module=_PILLOW)
_QUIET: Final = warnings.filters[0]
