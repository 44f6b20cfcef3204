"""Labelled images: the Stanford Cars devkit, a folder per class, or a CSV of files and labels, split three ways.

`train` is learned from, `calibration` fits temperature and thresholds and chooses between recipes, `holdout` is only
ever reported on.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.data.near_duplicates import Likeness, groups_of, likeness
from model.data.readers import SPLITS, Listed, Permitted, read_listing, some
from model.data.splits import split_by_class
from model.errors import DatasetError, ImageError
from model.labels import Label, what_is_wrong
from model.preprocess import MAX_PIXELS, decode

__all__ = ["SPLITS", "Dataset", "LabelledImage", "open_dataset"]

UNREADABLE_FRACTION: Final = 0.01
_SIDE = 64  # what images are decoded to for the duplicate check


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A readable image; `label` is the position of its class, `digest` the SHA-256 of its bytes in hex."""

    file: Path
    label: int
    split: str
    digest: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Readable images with labels and splits. `unreadable` holds the files left out, each with the reason.

    `class_parts` has the classes that the data names in parts, and `left_out` the classes that were left out, each
    with how many different images to learn from it has (or, in data that is only evaluated on, how many images).
    """

    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    unreadable: tuple[tuple[Path, str], ...]
    split_seed: int | None
    class_parts: Mapping[str, Label] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def of(self, split: str) -> tuple[LabelledImage, ...]:
        """Return the images of one split, or of all for "all", in the data set's order."""
        if split not in (*SPLITS, "all"):
            raise DatasetError(f"there is no split {split!r}; use one of {', '.join(SPLITS)} or all")
        return tuple(image for image in self.images if split in (image.split, "all"))

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """Return the class positions (N,) of `of(split)`."""
        return np.array([image.label for image in self.of(split)], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every image's content, class and split; names and order of the files do not matter."""
        lines = sorted(f"{image.digest} {self.classes[image.label]} {image.split}\n" for image in self.images)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def ordered(self, classes: Sequence[str]) -> Dataset:
        """Return the same images with labels counted in the order of `classes`, which may name more than the data has.

        Raises DatasetError if the data has a class that `classes` lacks.
        """
        position = {name: index for index, name in enumerate(classes)}
        unknown = [name for name in self.classes if name not in position]
        if unknown:
            raise DatasetError(
                f"the data has {len(unknown)} classes that the model does not know: {some(unknown)}; rename "
                "them to the model's class names or leave their images out; to have a model that knows them, train on "
                "this data."
            )
        images = tuple(replace(image, label=position[self.classes[image.label]]) for image in self.images)
        return replace(self, classes=tuple(classes), images=images)

    def with_parts(self, parts: Mapping[str, Label]) -> Dataset:
        """Return the same with the parts of those classes that the data does not name in parts itself."""
        known = {name: label for name, label in parts.items() if name in self.classes}
        return replace(self, class_parts={**known, **self.class_parts})

    def corrected(self, corrections: Mapping[Path, str]) -> tuple[Dataset, tuple[Path, ...]]:
        """Apply people's corrections, files and their right class; return the data set and the files left out.

        An image that the data already has, by content, gets the new label and stays in its split. Others join `train`,
        unless they are near-duplicates of an image that is not learned from: training on it would give the answer
        away. Raises DatasetError for a class that the data does not have, and ImageError.
        """
        position = {name: index for index, name in enumerate(self.classes)}
        unknown = sorted({label for label in corrections.values() if label not in position})
        if unknown:
            raise DatasetError(f"corrections name classes that the data does not have: {some(unknown)}")
        digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in corrections}
        right = {digests[file]: position[label] for file, label in corrections.items()}
        known = {image.digest for image in self.images}
        new = {digest: file for file, digest in digests.items() if digest not in known}
        repeats = _repeats([image.file for image in self.images if image.split != "train"], list(new.values()))
        images = [replace(image, label=right.get(image.digest, image.label)) for image in self.images]
        images += [
            LabelledImage(file, right[digest], "train", digest) for digest, file in new.items() if file not in repeats
        ]
        return replace(self, images=tuple(images)), repeats


def open_dataset(
    path: Path,
    *,
    split_seed: int | None = 0,
    min_photos: int | None = None,
    holdout: Set[str] = frozenset(),
    leave_out: Set[str] = frozenset(),
    permitted: Permitted = lambda _file: None,
    threads: int | None = None,
) -> Dataset:
    """Return the labelled images at `path`, each opened once to see that it can be read.

    `path` is a folder of the Stanford Cars devkit (`cars_train`, `devkit`), a CSV with the columns `file,label` or
    `file,make,model` (perhaps `body`, `year`) and perhaps `split`, a folder with a `labels.csv`, or a folder of one
    subfolder per class. Splits that the data names are kept; missing ones are drawn from `train` by class and
    `split_seed`, near-duplicates staying together. With `split_seed` None nothing is drawn and one class is enough:
    the data is only to be evaluated on.

    Classes with fewer than `min_photos` different images to learn from are left out, and so are those in `leave_out`.

    `holdout` has digests of images that an earlier version was only evaluated on: where `holdout` is drawn they come
    into it, and no others of a class in which they are half of what is drawn. `permitted` is asked about every file
    before it is looked at, and raises for one that may not be.

    Raises DatasetError: nothing there, one class, a class too small to split, a class name that no version can have,
    labels of missing files, an unknown split, or more than 1 % unreadable images.
    """
    listed, names = read_listing(Path(path), permitted)
    _check_listing(path, listed, least_classes=1 if split_seed is None else 2)
    drawn = split_seed is not None and not set(SPLITS) <= {entry.split for entry in listed}
    opened = _open_all(listed, threads or _threads(), compare=drawn)
    unreadable = tuple((entry.file, reason) for entry, reason in opened if isinstance(reason, str))
    if len(unreadable) > UNREADABLE_FRACTION * len(listed):
        raise DatasetError(
            f"{len(unreadable)} of {len(listed)} images in {path} cannot be read, more than 1 %: "
            f"{some([f'{file.name} ({reason})' for file, reason in unreadable])}; repair or remove them"
        )
    readable = [(entry, found) for entry, found in opened if not isinstance(found, str)]
    if split_seed is not None:
        readable, left_out = split_by_class(
            path,
            readable,
            seed=split_seed,
            draw=drawn,
            earlier_holdout=holdout,
            min_photos=min_photos,
            leave_out=leave_out,
        )
    else:
        left_out = Counter(entry.label for entry, _ in readable if entry.label in leave_out)
        readable = [(entry, found) for entry, found in readable if entry.label not in leave_out]
    present = {entry.label for entry, _ in readable}
    classes = tuple(name for name in names if name in present)
    _check_classes(path, classes, least=1 if split_seed is None else 2, left_out=left_out)
    position = {name: index for index, name in enumerate(classes)}
    images = tuple(
        LabelledImage(entry.file, position[entry.label], entry.split or "train", found.digest)
        for entry, found in readable
    )
    parts = {entry.label: entry.parts for entry, _ in readable if entry.parts is not None}
    return Dataset(classes, images, unreadable, split_seed if drawn else None, parts, dict(left_out))


def _check_listing(path: Path, listed: Sequence[Listed], *, least_classes: int) -> None:
    if not listed:
        raise DatasetError(
            f"{path} holds no labelled images; put each class's images in a subfolder named like the class"
        )
    names = sorted({entry.label for entry in listed})
    for name in names:
        if wrong := what_is_wrong(name):
            raise DatasetError(f"{path}: {name[:60]!r} cannot name a class: {wrong}; rename it")
    _check_classes(path, names, least=least_classes)
    missing = [str(entry.file) for entry in listed if not entry.file.is_file()]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} labels name files that are not there: {some(missing)}; correct the labels"
        )
    twice = [str(file) for file, times in Counter(entry.file for entry in listed).items() if times > 1]
    if twice:
        raise DatasetError(f"{path}: {len(twice)} files are labelled more than once: {some(twice)}; keep one line each")


def _check_classes(
    path: Path, classes: Sequence[str], *, least: int, left_out: Mapping[str, int] | None = None
) -> None:
    if len(classes) >= least:
        return
    if left_out:
        few = [f"{name} ({count})" for name, count in left_out.items()]
        raise DatasetError(
            f"{path}: {len(classes)} classes are left, and at least {least} are needed; left out, with how many images "
            f"each has to learn from: {some(few)}; add images, or leave out fewer classes"
        )
    raise DatasetError(f"{path} has one class ({some(classes)}); telling cars apart needs at least two")


def _open_all(listed: Sequence[Listed], threads: int, *, compare: bool) -> list[tuple[Listed, Likeness | str]]:
    """Return each entry with what its file looks like (only its digest unless `compare`), or why it cannot be read."""

    def open_one(entry: Listed) -> tuple[Listed, Likeness | str]:
        try:
            return entry, _look(entry.file, compare=compare)
        except ImageError as exc:
            return entry, exc.message
        except OSError as exc:
            return entry, exc.strerror or str(exc)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(open_one, listed))


def _look(file: Path, *, compare: bool = True) -> Likeness:
    content = file.read_bytes()
    small = decode(content, _SIDE, max_pixels=MAX_PIXELS)
    digest = hashlib.sha256(content).hexdigest()
    return likeness(digest, Image.fromarray(small)) if compare else Likeness(digest)


def _repeats(evaluated: Sequence[Path], files: Sequence[Path]) -> tuple[Path, ...]:
    """Return those of `files` that are near-duplicates of one of `evaluated`, or of one of `files` that is."""
    if not files:
        return ()
    with ThreadPoolExecutor(_threads()) as pool:
        groups = groups_of(list(pool.map(_look, [*evaluated, *files])))
    return tuple(file for file, first in zip(files, groups[len(evaluated) :], strict=True) if first < len(evaluated))


def _threads() -> int:
    return min(8, os.cpu_count() or 1)
