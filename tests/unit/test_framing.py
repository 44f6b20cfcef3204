"""Photos placed small in a picture, to be evaluated on and to be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.evaluation.framing import framed_images
from model.training.framing import SMALLEST_AREA, loosen

SIZE = 40


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> list[Path]:
    """Eight plain photos, each of one gray of its own between 60 and 200."""
    files = []
    for n in range(8):
        files.append(tmp_path / f"{n}.png")
        Image.new("RGB", (60, 45), (60 + 20 * n,) * 3).save(files[-1])
    return files


@pytest.mark.parametrize("area", [0.7, 0.5, 0.35])
def test_a_photo_covers_as_much_of_the_picture_as_asked(files: list[Path], area: float) -> None:
    framed = framed_images(files, SIZE, area=area)
    assert framed.shape == (8, SIZE, SIZE, 3)
    for n, picture in enumerate(framed):
        assert (picture == 60 + 20 * n).all(axis=2).mean() >= round(SIZE * area**0.5) ** 2 / SIZE**2
    surrounded = [n for n, picture in enumerate(framed) if (picture != 60 + 20 * n).any()]
    assert surrounded, "of eight photos some are surrounded by another one"


def test_the_whole_picture_is_the_photo_as_served(files: list[Path]) -> None:
    framed = framed_images(files, SIZE, area=1.0)
    assert all((picture == 60 + 20 * n).all() for n, picture in enumerate(framed))


def test_placing_depends_on_the_seed_alone(files: list[Path]) -> None:
    first, again, other = (framed_images(files, SIZE, area=0.5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_loosened_views_are_small_and_elsewhere() -> None:
    torch.manual_seed(0)
    images = torch.stack([torch.full((3, SIZE, SIZE), 0.1 + 0.02 * n) for n in range(32)])
    loose = loosen(images, 1.0)
    covered = ((loose - images).abs() < 1e-4).all(dim=1).float().mean(dim=(1, 2))
    assert loose.shape == images.shape
    assert float(loose.min()) >= 0
    assert float(loose.max()) <= 0.1 + 0.02 * 31 + 1e-4
    assert float(covered.min()) >= SMALLEST_AREA - 0.06  # of whole pixels
    assert (covered < 0.95).sum() >= 8


def test_only_the_fraction_asked_for_is_loosened() -> None:
    torch.manual_seed(0)
    images = torch.rand(400, 3, 8, 8)
    assert loosen(images, 0.0) is images
    changed = (loosen(images, 0.25) != images).flatten(1).any(dim=1).float().mean()
    assert 0.17 < float(changed) < 0.33
