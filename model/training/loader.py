"""A data set decoded once and kept as bytes, and the batches fastai takes from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch

from model.data.dataset import Dataset
from model.data.decoding import decode_files

__all__ = ["ImageLoader", "ImageTable", "load_table"]

_CHUNK = 512
_DEVICE_FRACTION = 0.6  # of the free memory that the images may take


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Images as uint8 (N, 3, S, S) with labels (N,); on the device where they fit, else mapped from a file."""

    images: torch.Tensor
    labels: torch.Tensor


def load_table(dataset: Dataset, split: str, size: int, *, folder: Path, device: torch.device) -> ImageTable:
    """Return one split's images at a size. They are decoded into a file of `folder`, which a resumed run finds."""
    images = dataset.of(split)
    files = [image.file for image in images]
    order = hashlib.sha256("".join(image.digest for image in images).encode()).hexdigest()
    target = folder / f"{split}-{size}-{order[:16]}.u8"  # labels come in this order
    shape = (len(files), size, size, 3)
    if not (target.exists() and target.stat().st_size == int(np.prod(shape))):
        draft = target.with_suffix(".new")
        table = np.memmap(draft, dtype=np.uint8, mode="w+", shape=shape)
        for start in range(0, len(files), _CHUNK):
            table[start : start + _CHUNK] = decode_files(files[start : start + _CHUNK], size)
        table.flush()
        del table
        draft.replace(target)
    # Copy-on-write, since torch wants memory it could write to; nothing does.
    pixels = torch.from_numpy(np.memmap(target, dtype=np.uint8, mode="c", shape=shape)).permute(0, 3, 1, 2)
    if device.type == "cuda" and pixels.nbytes < _DEVICE_FRACTION * torch.cuda.mem_get_info(device)[0]:
        pixels = pixels.to(device)
    return ImageTable(images=pixels, labels=torch.from_numpy(dataset.labels(split)))


@dataclass(kw_only=True)
class ImageLoader:
    """What fastai needs of a loader: an iterable of (images, labels) with a length. Training batches are shuffled anew
    by (`seed`, `epoch`) and full, the last odd ones left out; others come in order and whole.
    """

    table: ImageTable
    batch_size: int
    training: bool
    seed: int = 0
    epoch: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        count = len(self.table.labels)
        return max(1, count // self.batch_size) if self.training else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = self._order()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            picks = order[start : start + self.batch_size]
            images = self.table.images[picks.to(self.table.images.device)]
            yield images.to(self.device, non_blocking=True), self.table.labels[picks].to(self.device)

    def to(self, device: torch.device) -> Self:
        """Put batches on a device; part of what fastai asks of a loader."""
        self.device = device
        return self

    def _order(self) -> torch.Tensor:
        count = len(self.table.labels)
        if not self.training:
            return torch.arange(count)
        return torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(count))
