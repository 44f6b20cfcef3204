"""Loose framing: the car small in the frame, as sellers show it, where the training images are cropped to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.data.decoding import Images, decode_files

__all__ = ["AREAS", "framed_images", "surroundings"]

AREAS = (1.0, 0.7, 0.5, 0.35)  # of the frame that the car's own image covers
SEED = 20_261_125  # so that a version is placed like every other one
_BLURS = (6, 12)  # pixels a side that a blurred surrounding is reduced to first

Pixels = npt.NDArray[np.uint8]


def framed_images(files: Sequence[Path], size: int, *, area: float, seed: int = SEED) -> Images:
    """Return images as uint8 (N, size, size, 3) that cover `area` (0..1) of their frame, at a random place in it.

    What surrounds them is drawn by `seed` and the image's position alone: the image itself mirrored at its border,
    itself or another of the images blurred, or a corner of another one. With `area` 1 the images are as served.
    """
    inner = max(1, round(size * area**0.5))
    images = decode_files(files, inner)
    if inner >= size:
        return images
    others = np.random.default_rng(seed).permutation(len(files))
    framed = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        random = np.random.default_rng([seed, index])
        framed[index] = _placed(image, images[others[index]], size=size, random=random)
    return framed


def surroundings(
    image: Pixels, other: Pixels, *, pad: tuple[int, int, int, int], random: np.random.Generator
) -> Pixels:
    """Return a frame (H, W, 3) that `image` can be placed into; `pad`: pixels above, below, left and right of it."""
    above, below, left, right = pad
    shape = (image.shape[0] + above + below, image.shape[1] + left + right)
    kind = int(random.integers(4))
    if kind == 0:
        return np.pad(image, ((above, below), (left, right), (0, 0)), mode="symmetric")
    if kind == 3:
        return _resized(_corner(other, random), shape)
    blur = int(random.choice(_BLURS))
    return _resized(_resized(image if kind == 1 else other, (blur, blur)), shape)


def _placed(image: Pixels, other: Pixels, *, size: int, random: np.random.Generator) -> Pixels:
    inner = image.shape[0]
    above, left = (int(random.integers(size - inner + 1)) for _ in range(2))
    pad = (above, size - inner - above, left, size - inner - left)
    frame = surroundings(image, other, pad=pad, random=random).copy()
    frame[above : above + inner, left : left + inner] = image
    return frame


def _corner(image: Pixels, random: np.random.Generator) -> Pixels:
    """Return a corner of an image, where there is more street than car."""
    side = max(2, image.shape[0] // 3)
    rows, columns = (slice(None, side) if random.integers(2) else slice(-side, None) for _ in range(2))
    return image[rows, columns]


def _resized(image: Pixels, shape: tuple[int, int]) -> Pixels:
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)
