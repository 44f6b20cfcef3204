"""Finding photos that show the same picture: re-encoded, resized, slightly edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Likeness", "groups_of", "likeness"]

# Hashes propose and thumbnails decide: plain or dark photos share hashes without being the same picture.
_HASH_BITS = 64
_LARGEST_DISTANCE = 10
_LEAST_CORRELATION = 0.9
_THUMBNAIL = 24
_CHUNK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """What photos are compared by: content digest, perceptual hash (64,), thumbnail with zero mean and unit norm."""

    digest: str
    hash: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(_HASH_BITS, dtype=bool))
    thumbnail: npt.NDArray[np.float16] = field(default_factory=lambda: np.zeros(0, dtype=np.float16))


def likeness(digest: str, picture: Image.Image) -> Likeness:
    """Return the likeness of an RGB picture whose bytes have this digest."""
    import imagehash  # of the extra `train`; evaluating a version on labelled photos does without

    pixels = np.asarray(picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), dtype=np.float32).reshape(-1)
    pixels = pixels - pixels.mean()
    norm = float(np.linalg.norm(pixels))
    thumbnail = (pixels / norm if norm > 1 else pixels * 0).astype(np.float16)
    return Likeness(digest, np.asarray(imagehash.phash(picture).hash).reshape(-1), thumbnail)


def groups_of(photos: Sequence[Likeness]) -> list[int]:
    """Return for each photo the position of the first photo of its group; itself unless something is alike."""
    parent = list(range(len(photos)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    pairs = [(first.setdefault(photo.digest, index), index) for index, photo in enumerate(photos)]
    for one, other in [*pairs, *_alike(photos)]:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(index) for index in range(len(photos))]


def _alike(photos: Sequence[Likeness]) -> list[tuple[int, int]]:
    """Return pairs whose hashes differ in few bits and whose thumbnails correlate."""
    if not photos:
        return []
    signs = np.stack([photo.hash for photo in photos]).astype(np.float32) * 2 - 1
    found = []
    for start in range(0, len(photos), _CHUNK):
        agreement = signs[start : start + _CHUNK] @ signs.T  # 64 - 2 * Hamming distance
        for i, j in np.argwhere(agreement >= _HASH_BITS - 2 * _LARGEST_DISTANCE):
            one, other = start + int(i), int(j)
            if one < other and np.dot(*_thumbnails(photos, one, other)) >= _LEAST_CORRELATION:
                found.append((one, other))
    return found


def _thumbnails(photos: Sequence[Likeness], one: int, other: int) -> tuple[npt.NDArray[np.float32], ...]:
    return tuple(photos[index].thumbnail.astype(np.float32) for index in (one, other))
