"""Finding images that are the same but for encoding, size or slight edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Likeness", "groups_of", "likeness"]

# Hashes propose and thumbnails decide: plain or dark images share hashes without being alike.
_HASH_BITS = 64
_LARGEST_DISTANCE = 10
_LEAST_CORRELATION = 0.9
_THUMBNAIL = 24
_CHUNK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """What images are compared by: content digest, perceptual hash (64,), thumbnail with zero mean and unit norm."""

    digest: str
    hash: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(_HASH_BITS, dtype=bool))
    thumbnail: npt.NDArray[np.float16] = field(default_factory=lambda: np.zeros(0, dtype=np.float16))


def likeness(digest: str, image: Image.Image) -> Likeness:
    """Return the likeness of an RGB image whose bytes have this digest."""
    import imagehash  # of the extra `train`; evaluating a version on labelled images does without

    pixels = np.asarray(image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), dtype=np.float32).reshape(-1)
    pixels = pixels - pixels.mean()
    norm = float(np.linalg.norm(pixels))
    thumbnail = (pixels / norm if norm > 1 else pixels * 0).astype(np.float16)
    return Likeness(digest, np.asarray(imagehash.phash(image).hash).reshape(-1), thumbnail)


def groups_of(images: Sequence[Likeness]) -> list[int]:
    """Return for each image the position of the first image of its group; itself unless something is alike."""
    parent = list(range(len(images)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    pairs = [(first.setdefault(image.digest, index), index) for index, image in enumerate(images)]
    for one, other in [*pairs, *_alike(images)]:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(index) for index in range(len(images))]


def _alike(images: Sequence[Likeness]) -> list[tuple[int, int]]:
    """Return pairs whose hashes differ in few bits and whose thumbnails correlate."""
    if not images:
        return []
    signs = np.stack([image.hash for image in images]).astype(np.float32) * 2 - 1
    found = []
    for start in range(0, len(images), _CHUNK):
        agreement = signs[start : start + _CHUNK] @ signs.T  # 64 - 2 * Hamming distance
        for i, j in np.argwhere(agreement >= _HASH_BITS - 2 * _LARGEST_DISTANCE):
            one, other = start + int(i), int(j)
            if one < other and np.dot(*_thumbnails(images, one, other)) >= _LEAST_CORRELATION:
                found.append((one, other))
    return found


def _thumbnails(images: Sequence[Likeness], one: int, other: int) -> tuple[npt.NDArray[np.float32], ...]:
    return tuple(images[index].thumbnail.astype(np.float32) for index in (one, other))
