"""Images that show no car of the classes: what `unknown` is fitted to and evaluated on."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from model.data.decoding import Images, decode_files
from model.errors import DatasetError, ImageError

__all__ = ["OodImage", "OodImages", "open_ood_images"]

LABELS = "labels.csv"
_COLUMNS = {"file", "what", "split"}
Split = Literal["calibration", "holdout"]
_SPLITS: Final[tuple[Split, ...]] = ("calibration", "holdout")


@dataclass(frozen=True, kw_only=True)
class OodImage:
    """One image; `what` says what it shows."""

    file: Path
    what: str
    split: str


@dataclass(frozen=True, kw_only=True)
class OodImages:
    """A folder of them. Both splits are there, and what one of them shows the other does not."""

    folder: Path
    images: tuple[OodImage, ...]

    @property
    def splits(self) -> tuple[Split, ...]:
        """The names of the splits."""
        return _SPLITS

    def of(self, split: Split) -> tuple[OodImage, ...]:
        """Return the images of one split."""
        return tuple(image for image in self.images if image.split == split)

    def decoded(self, split: Split, size: int) -> Images:
        """Return the split's images as uint8 (N, size, size, 3). Raises DatasetError for one that cannot be decoded."""
        try:
            return decode_files([image.file for image in self.of(split)], size)
        except (ImageError, OSError) as exc:
            raise DatasetError(f"{self.folder}: an image cannot be used: {exc}") from exc


def open_ood_images(folder: Path) -> OodImages:
    """Return the images of a folder with a `labels.csv` (file, what, split) and the files in it or in `images/`.

    Raises DatasetError if the table cannot be read, a file is missing, a split is empty or is none of calibration and
    holdout, or both splits show the same kind of thing: a threshold fitted to it would prove nothing there.
    """
    table = folder / LABELS
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if not set(reader.fieldnames or ()) >= _COLUMNS:
                raise DatasetError(f"{table} needs the columns file, what and split; give such a table")
            images = tuple(_read(folder, row, line) for line, row in enumerate(reader, start=2))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise DatasetError(f"{table} cannot be read ({exc}); give a folder with such a table") from exc
    kinds = {split: {image.what for image in images if image.split == split} for split in _SPLITS}
    empty = [split for split in _SPLITS if not kinds[split]]
    if empty:
        raise DatasetError(f"{table} has no images in {empty[0]!r}; it needs some in each of {', '.join(_SPLITS)}")
    shared = sorted(kinds["calibration"] & kinds["holdout"])
    if shared:
        raise DatasetError(
            f"{table} shows {shared[0]!r} in both splits; put what shows one kind of thing into one split"
        )
    return OodImages(folder=folder, images=images)


def _read(folder: Path, row: dict[str, str], line: int) -> OodImage:
    name, what, split = (str(row.get(column) or "").strip() for column in ("file", "what", "split"))
    if split not in _SPLITS:
        raise DatasetError(f"{folder / LABELS}, line {line}: the split is {split!r}; use one of {', '.join(_SPLITS)}")
    root = folder.resolve()
    for file in (folder / "images" / name, folder / name):
        if name and file.is_file() and file.resolve().is_relative_to(root):
            return OodImage(file=file, what=what, split=split)
    raise DatasetError(f"{folder / LABELS}, line {line}: there is no file {name!r} in {folder} or its folder images")
