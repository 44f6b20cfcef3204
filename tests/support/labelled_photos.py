"""Labelled pictures made for tests: a shape of the class's color on a random background."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLORS: Mapping[str, tuple[int, int, int]] = {
    "Acura TL Sedan 2012": (220, 30, 30),
    "Acura RL Sedan 2012": (30, 220, 30),
    "BMW M3 Coupe 2012": (30, 30, 220),
    "Land Rover LR2 SUV 2012": (220, 220, 30),
}


def picture(label: str, seed: int, *, side: int = 40) -> Image.Image:
    """A picture of the class; another seed is another picture, and never a near-duplicate."""
    random = np.random.default_rng([seed, *label.encode()])
    background = random.integers(0, 200, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(background).resize((side, side), Image.Resampling.BICUBIC)
    x, y = (int(value) for value in random.integers(0, side // 2, 2))
    ImageDraw.Draw(image).rectangle((x, y, x + side // 2, y + side // 2), fill=COLORS[label])
    return image


def write_folders(root: Path, *, photos: int = 12, labels: tuple[str, ...] = tuple(COLORS), first: int = 0) -> Path:
    """Write one folder per class, each with this many PNG files, numbered from `first`; return `root`."""
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(first, first + photos):
            picture(label, number).save(root / label / f"{number:03}.png")
    return root
