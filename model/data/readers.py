"""The forms a labelled data set may have: the Stanford Cars devkit, a CSV, a folder per class.

The devkit: Krause, Stark, Deng and Fei-Fei, "3D Object Representations for Fine-Grained Categorization", 3DRR 2013.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from model.errors import DatasetError
from model.labels import FIRST_YEAR, LAST_YEAR, Label, joined

__all__ = ["SPLITS", "Listed", "Permitted", "read_listing", "some"]

SPLITS: Final = ("train", "calibration", "holdout")
IMAGE_SUFFIXES: Final = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".pjpeg",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
        ".mpo",
    ]
)
_NAMED: Final = 8  # how many offenders an error names


Permitted = Callable[[Path], None]  # raises for a file that may not be touched


class Listed(NamedTuple):
    """One line of a data set before its file was opened; `split` and `parts` are None where the data names none."""

    file: Path
    label: str
    split: str | None
    parts: Label | None = None


def read_listing(path: Path, permitted: Permitted) -> tuple[list[Listed], list[str]]:
    """Return what is listed at `path`, and the class names in their order.

    `permitted` is asked about every file before it is looked at. Raises DatasetError, and what `permitted` raises.
    """
    if path.is_file() and path.suffix.lower() == ".csv":
        listed = _read_csv(path, permitted)
    elif (path / "devkit").is_dir():
        rows, names = _read_devkit(path, permitted)
        return [Listed(file, label, None) for file, label in rows], names
    elif (path / "labels.csv").is_file():
        listed = _read_csv(path / "labels.csv", permitted)
    elif path.is_dir():
        listed = _read_folders(path, permitted)
    else:
        raise DatasetError(
            f"{path} is not a data set; give a folder with one subfolder per class, a CSV with the columns file,label "
            "or file,make,model, or the folder that holds the Stanford Cars `cars_train` and `devkit`"
        )
    return listed, _class_order(path, {entry.label for entry in listed}, permitted)


def _class_order(path: Path, present: set[str], permitted: Permitted) -> list[str]:
    """Return the names sorted, or as a `classes.json` beside the data has them: the position of a class is part of its
    weights.
    """
    file = (path if path.is_dir() else path.parent) / "classes.json"
    permitted(file)
    if not file.is_file():
        return sorted(present)
    try:
        names = json.loads(file.read_text("utf-8"))
    except ValueError as exc:
        raise DatasetError(f"{file} is not a JSON list of class names: {exc}") from exc
    if not isinstance(names, list) or not present <= set(map(str, names)):
        raise DatasetError(f"{file} lacks classes that the labels use: {some(sorted(present - set(map(str, names))))}")
    if len(set(map(str, names))) < len(names):
        raise DatasetError(f"{file} names a class twice; keep each once")
    return [str(name) for name in names]


def _read_csv(path: Path, permitted: Permitted) -> list[Listed]:
    permitted(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise DatasetError(f"{path} cannot be read as CSV in UTF-8: {exc}") from exc
    in_parts = {"make", "model"} <= columns
    if not rows or "file" not in columns or not (in_parts or "label" in columns):
        raise DatasetError(
            f"{path} needs a first line `file,label` or `file,make,model`, the latter with `body` and `year` if you "
            "like, both with `split` if you like, and images after it"
        )
    if in_parts and "label" in columns:
        raise DatasetError(
            f"{path} has the column `label` and the columns `make` and `model`; leave out one of the two"
        )
    listed = []
    for number, row in rows:
        where = f"{path}, line {number}"
        name, parts, label, split = _cells(row, where, in_parts=in_parts)
        listed.append(Listed(_listed_file(path.parent, name, permitted), label, split or None, parts))
    _refuse_ambiguous(path, listed)
    return listed


def _cells(row: Mapping[Any, Any], where: str, *, in_parts: bool) -> tuple[str, Label | None, str, str]:
    """Return file, parts, label and split of a line of a CSV."""
    if any(row.get(None) or ()):
        raise DatasetError(f"{where} has more fields than the first line; quote a text that has a comma in it")
    name, label, split = ((row.get(column) or "").strip() for column in ("file", "label", "split"))
    parts = _parts(row, where) if in_parts else None
    label = parts.name if parts else label
    if not name or not label or split not in ("", *SPLITS):
        raise DatasetError(
            f"{where}: {','.join(map(str, row.values()))!r} needs a file, a label, and as split one of "
            f"{', '.join(SPLITS)} or nothing"
        )
    return name, parts, label, split


def _parts(row: Mapping[str, str | None], where: str) -> Label:
    make, model, body, year = (
        " ".join((row.get(column) or "").split()) for column in ("make", "model", "body", "year")
    )
    if not make or not model:
        raise DatasetError(f"{where}: {','.join(map(str, row.values()))!r} needs a make and a model")
    if year and not (year.isascii() and year.isdigit() and FIRST_YEAR <= int(year) <= LAST_YEAR):
        raise DatasetError(
            f"{where}: {year!r} is not a year from {FIRST_YEAR} to {LAST_YEAR}; leave it empty, or put what it says in "
            "the column `model`"
        )
    return joined(make, model, body or None, int(year) if year else None)


def _refuse_ambiguous(path: Path, listed: Iterable[Listed]) -> None:
    """Raise DatasetError where a class name is taken apart in two ways: a class has one make."""
    seen: dict[str, Listed] = {}
    for entry in listed:
        first = seen.setdefault(entry.label, entry)
        if first.parts != entry.parts:
            raise DatasetError(
                f"{path} takes {entry.label!r} apart in two ways: {_named_parts(first)} and {_named_parts(entry)}; "
                "correct one"
            )


def _named_parts(entry: Listed) -> str:
    parts = entry.parts
    named = {"make": parts.make, "model": parts.model, "body": parts.body, "year": parts.year} if parts else {}
    return ", ".join(f"{column} {value}" for column, value in named.items() if value is not None) + (
        f" ({entry.file.name})"
    )


def _listed_file(folder: Path, name: str, permitted: Permitted) -> Path:
    """Return the file beside the CSV or, where it is not there, in `images`."""
    for file in (folder / name, folder / "images" / name):
        permitted(file)
        if file.exists():
            break
    return file


def _read_folders(path: Path, permitted: Permitted) -> list[Listed]:
    listed = []
    for folder in sorted(path.iterdir()):
        if folder.name.startswith("."):
            continue
        permitted(folder)
        for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
                permitted(file)
                if file.is_file():
                    listed.append(Listed(file, folder.name, None))
    return listed


def _read_devkit(path: Path, permitted: Permitted) -> tuple[list[tuple[Path, str]], list[str]]:
    """Return the images of `cars_train` with their class names, and all class names in the official order."""
    try:
        from scipy.io import loadmat
    except ImportError as exc:
        raise DatasetError(
            f"{path} is a Stanford Cars devkit, which needs scipy to be read: pip install scipy, or give a labels.csv"
        ) from exc

    meta, annotations = path / "devkit" / "cars_meta.mat", path / "devkit" / "cars_train_annos.mat"
    for file in (meta, annotations):
        permitted(file)
    try:
        names = [str(name) for name in _flat(loadmat(meta, squeeze_me=True)["class_names"])]
        rows = _flat(loadmat(annotations, squeeze_me=True)["annotations"])
        listed = [(path / "cars_train" / str(row["fname"]), names[int(row["class"]) - 1]) for row in rows]
    except (OSError, KeyError, ValueError, IndexError, TypeError) as exc:
        raise DatasetError(
            f"{path} is not the published Stanford Cars devkit: {meta.name} and {annotations.name} are needed in "
            f"{path / 'devkit'}, and the images in {path / 'cars_train'} ({exc})"
        ) from exc
    for image, _ in listed:
        permitted(image)
    return listed, names


def _flat(array: Any) -> Any:
    """Return one dimension: MATLAB's arrays of one element come squeezed to none."""
    return array.reshape(-1)


def some(names: Iterable[object]) -> str:
    """Return the first few names, for an error's text."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:_NAMED]) + (f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else "")
