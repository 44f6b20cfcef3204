"""Small thumbnails for people to look at, by the decoder and the limits of the pipeline."""

import io
from typing import Final

from PIL import Image

from model.preprocess import MAX_PIXELS, open_image

__all__ = ["thumbnail"]

_QUALITY: Final = 75  # of JPEG: 10 to 20 kB at 320 pixels


def thumbnail(data: bytes, size: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return a JPEG of the whole image, upright, its longer side at most `size` pixels and never enlarged.

    It carries nothing but pixels: no EXIF data, no place, no other metadata. Raises ImageError as `preprocess.decode`.
    """
    square, (width, height) = open_image(data, size, max_pixels=max_pixels).with_shape()
    longest = max(width, height)
    scale = min(size, longest) / longest
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(square).resize(shape, Image.Resampling.BICUBIC)
    target = io.BytesIO()
    small.save(target, "JPEG", quality=_QUALITY, optimize=True)
    return target.getvalue()
