"""Images of a data set as arrays, decoded by the very code that serves."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.preprocess import MAX_PIXELS, decode

__all__ = ["Images", "decode_files"]

Images = npt.NDArray[np.uint8]


def decode_files(files: Sequence[Path], size: int, *, reduced: bool = True) -> Images:
    """Return the files' pixels as uint8 (N, size, size, 3).

    Without `reduced` a JPEG is decoded at its full resolution first, which serving never does: it is what the cost
    of the reduced decoding is measured against. Raises ImageError for a file that cannot be decoded.
    """
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)

    def fill(index: int) -> None:
        content = files[index].read_bytes()
        images[index] = decode(content if reduced else _lossless(content), size, max_pixels=MAX_PIXELS)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(len(files))):
            pass
    return images


def _lossless(content: bytes) -> bytes:
    """Return a JPEG as PNG, which has no reduced decoding; anything else as it is."""
    with Image.open(io.BytesIO(content)) as image:
        if image.format != "JPEG":
            return content
        target = io.BytesIO()
        whole = image.convert("RGB") if image.mode == "CMYK" else image  # which PNG cannot hold
        whole.save(target, "PNG", compress_level=0, exif=image.getexif())
    return target.getvalue()
