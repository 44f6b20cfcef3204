"""Loose framing: the car small in the picture, as in sellers' photos, where the training photos are cropped to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.data.decoding import Images, decode_files

__all__ = ["AREAS", "framed_images", "surroundings"]

AREAS = (1.0, 0.7, 0.5, 0.35)  # of the picture that the car's own photo covers
SEED = 20_261_125  # so that a version is placed like every other one
_BLURS = (6, 12)  # pixels a side that a blurred surrounding is reduced to first

Picture = npt.NDArray[np.uint8]


def framed_images(files: Sequence[Path], size: int, *, area: float, seed: int = SEED) -> Images:
    """Return photos as uint8 (N, size, size, 3) that cover `area` (0..1) of their picture, at a random place in it.

    What surrounds them is drawn by `seed` and the photo's position alone: the photo itself mirrored at its border,
    itself or another of the photos blurred, or a corner of another one. With `area` 1 the photos are as served.
    """
    inner = max(1, round(size * area**0.5))
    photos = decode_files(files, inner)
    if inner >= size:
        return photos
    others = np.random.default_rng(seed).permutation(len(files))
    framed = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for index, photo in enumerate(photos):
        random = np.random.default_rng([seed, index])
        framed[index] = _placed(photo, photos[others[index]], size=size, random=random)
    return framed


def surroundings(
    photo: Picture, other: Picture, *, pad: tuple[int, int, int, int], random: np.random.Generator
) -> Picture:
    """Return a picture (H, W, 3) that `photo` can be placed into; `pad`: pixels above, below, left and right of it."""
    above, below, left, right = pad
    shape = (photo.shape[0] + above + below, photo.shape[1] + left + right)
    kind = int(random.integers(4))
    if kind == 0:
        return np.pad(photo, ((above, below), (left, right), (0, 0)), mode="symmetric")
    if kind == 3:
        return _resized(_corner(other, random), shape)
    blur = int(random.choice(_BLURS))
    return _resized(_resized(photo if kind == 1 else other, (blur, blur)), shape)


def _placed(photo: Picture, other: Picture, *, size: int, random: np.random.Generator) -> Picture:
    inner = photo.shape[0]
    above, left = (int(random.integers(size - inner + 1)) for _ in range(2))
    pad = (above, size - inner - above, left, size - inner - left)
    picture = surroundings(photo, other, pad=pad, random=random).copy()
    picture[above : above + inner, left : left + inner] = photo
    return picture


def _corner(photo: Picture, random: np.random.Generator) -> Picture:
    """Return a corner of a photo, where there is more street than car."""
    side = max(2, photo.shape[0] // 3)
    rows, columns = (slice(None, side) if random.integers(2) else slice(-side, None) for _ in range(2))
    return photo[rows, columns]


def _resized(picture: Picture, shape: tuple[int, int]) -> Picture:
    resized = Image.fromarray(np.ascontiguousarray(picture)).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)
