from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from model.data.ood_images import open_ood_images
from model.errors import DatasetError


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 20)).save(tmp_path / "outside.png")
    tmp_path = tmp_path / "other"
    (tmp_path / "images").mkdir(parents=True)
    for name in ("cup.png", "cup2.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / "images" / name)
    Image.new("RGB", (20, 20)).save(tmp_path / "chair.png")
    return tmp_path


def write(folder: Path, *rows: str, header: str = "file,what,split") -> Path:
    (folder / "labels.csv").write_text("\n".join([header, *rows]))
    return folder


GOOD = ("cup.png,cup,calibration", "cup2.png,cup,calibration", "chair.png,chair,holdout")


def test_photos_come_by_split(folder: Path) -> None:
    found = open_ood_images(write(folder, *GOOD))
    assert [image.what for image in found.of("calibration")] == ["cup", "cup"]
    assert found.decoded("holdout", 16).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (GOOD, "file,label", "needs the columns file, what and split"),
        (GOOD[:2], "file,what,split", "no images in 'holdout'"),
        ((*GOOD, "x.png,x,train"), "file,what,split", "line 5: the split is 'train'"),
        ((*GOOD, "x.png,x,holdout"), "file,what,split", "line 5: there is no file 'x.png'"),
        ((*GOOD, "../outside.png,x,holdout"), "file,what,split", "line 5: there is no file"),
        ((*GOOD, "cup2.png,cup,holdout"), "file,what,split", "'cup' in both splits"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(folder: Path, rows: tuple[str, ...], header: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_ood_images(write(folder, *rows, header=header))


def test_no_table_and_no_picture_are_said(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"labels\.csv cannot be read"):
        open_ood_images(folder)
    (folder / "chair.png").write_text("no picture")
    with pytest.raises(DatasetError, match="cannot be used"):
        open_ood_images(write(folder, *GOOD)).decoded("holdout", 16)
