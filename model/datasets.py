"""Labelled photos: the Stanford Cars devkit, a folder a class, or a CSV of files and labels, split three ways.

`train` is learned from, `calibration` fits temperature and thresholds and chooses between recipes, `holdout` is only
ever reported on.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.dataset_forms import SPLITS, Listed, Permitted, read_listing, some
from model.duplicates import Likeness, groups_of, likeness
from model.errors import DatasetError, ImageError
from model.preprocess import MAX_PIXELS, decode

__all__ = ["SPLITS", "Dataset", "Photo", "open_dataset"]

UNREADABLE_SHARE: Final = 0.01
_SHARES: Final = {"holdout": 0.1, "calibration": 0.1}
_SIDE = 64  # what photos are decoded to for the duplicate check


@dataclass(frozen=True, slots=True)
class Photo:
    """A readable photo; `label` is the position of its class, `digest` the SHA-256 of its bytes in hex."""

    file: Path
    label: int
    split: str
    digest: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Readable photos with labels and splits. `unreadable` holds the files left out, each with the reason."""

    classes: tuple[str, ...]
    photos: tuple[Photo, ...]
    unreadable: tuple[tuple[Path, str], ...]
    split_seed: int | None

    def of(self, split: str) -> tuple[Photo, ...]:
        """The photos of one split, or of all for "all", in the data set's order."""
        if split not in (*SPLITS, "all"):
            raise DatasetError(f"there is no split {split!r}; use one of {', '.join(SPLITS)} or all")
        return tuple(photo for photo in self.photos if split in (photo.split, "all"))

    def labels(self, split: str) -> npt.NDArray[np.int64]:
        """The class positions (N,) of `of(split)`."""
        return np.array([photo.label for photo in self.of(split)], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every photo's content, class and split; names and order of the files do not matter."""
        lines = sorted(f"{photo.digest} {self.classes[photo.label]} {photo.split}\n" for photo in self.photos)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def ordered(self, classes: Sequence[str]) -> Dataset:
        """The same photos with labels counted in the order of `classes`, which may name more than the data has.

        Raises DatasetError if the data has a class that `classes` lacks.
        """
        position = {name: index for index, name in enumerate(classes)}
        strangers = [name for name in self.classes if name not in position]
        if strangers:
            raise DatasetError(
                f"the data has {len(strangers)} classes that the model does not know: {some(strangers)}. Rename "
                "them to the model's class names, or train with `--init imagenet` or `--init scratch`."
            )
        photos = tuple(replace(photo, label=position[self.classes[photo.label]]) for photo in self.photos)
        return replace(self, classes=tuple(classes), photos=photos)

    def corrected(self, corrections: Mapping[Path, str]) -> tuple[Dataset, tuple[Path, ...]]:
        """With people's corrections, files and their right class; and the files that are left out.

        A photo that the data already has, by content, gets the new label and stays in its split. Others join `train`,
        unless they show the same picture as a photo that is not learned from: training on it would give the answer
        away. Raises DatasetError for a class that the data does not have, and ImageError.
        """
        position = {name: index for index, name in enumerate(self.classes)}
        strangers = sorted({label for label in corrections.values() if label not in position})
        if strangers:
            raise DatasetError(f"corrections name classes that the data does not have: {some(strangers)}")
        digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in corrections}
        right = {digests[file]: position[label] for file, label in corrections.items()}
        known = {photo.digest for photo in self.photos}
        new = {digest: file for file, digest in digests.items() if digest not in known}
        repeats = _repeats([photo.file for photo in self.photos if photo.split != "train"], list(new.values()))
        photos = [replace(photo, label=right.get(photo.digest, photo.label)) for photo in self.photos]
        photos += [Photo(file, right[digest], "train", digest) for digest, file in new.items() if file not in repeats]
        return replace(self, photos=tuple(photos)), repeats


def open_dataset(
    path: Path,
    *,
    split_seed: int | None = 0,
    drop_small_classes: bool = False,
    holdout: Set[str] = frozenset(),
    permitted: Permitted = lambda _file: None,
    threads: int | None = None,
) -> Dataset:
    """The labelled photos at `path`, each opened once to see that it can be read.

    `path` is a folder of the Stanford Cars devkit (`cars_train`, `devkit`), a CSV with the columns `file,label` and
    perhaps `split`, a folder with a `labels.csv`, or a folder of one subfolder a class. Splits that the data names are
    kept; missing ones are drawn from `train` by class and `split_seed`, near-duplicates staying together. With
    `split_seed` None nothing is drawn and one class is enough: the data is only to be judged on.

    `holdout` has digests of photos that an earlier version was only judged on: where `holdout` is drawn they come into
    it, and no others of a class in which they are half of what is drawn. `permitted` is asked about every file before
    it is looked at, and raises for one that may not be.

    Raises DatasetError: nothing there, one class, a class too small to split, labels of missing files, an unknown
    split, or more than 1 % unreadable photos.
    """
    listed, names = read_listing(Path(path), permitted)
    _check_listing(path, listed, least_classes=1 if split_seed is None else 2)
    drawn = split_seed is not None and not set(SPLITS) <= {entry.split for entry in listed}
    opened = _open_all(listed, threads or _threads(), compare=drawn)
    unreadable = tuple((entry.file, reason) for entry, reason in opened if isinstance(reason, str))
    if len(unreadable) > UNREADABLE_SHARE * len(listed):
        raise DatasetError(
            f"{len(unreadable)} of {len(listed)} photos in {path} cannot be read, more than 1 %: "
            f"{some([f'{file.name} ({reason})' for file, reason in unreadable])}. Repair or remove them."
        )
    readable = [(entry, found) for entry, found in opened if not isinstance(found, str)]
    if split_seed is not None:
        if drawn:
            readable = _draw_splits(readable, split_seed, held=holdout, drop_small_classes=drop_small_classes)
        readable = _with_training_photos(path, readable, drop_small_classes=drop_small_classes)
    present = {entry.label for entry, _ in readable}
    classes = tuple(name for name in names if name in present)
    _check_classes(path, classes, least=1 if split_seed is None else 2)
    position = {name: index for index, name in enumerate(classes)}
    photos = tuple(
        Photo(entry.file, position[entry.label], entry.split or "train", found.digest) for entry, found in readable
    )
    return Dataset(classes, photos, unreadable, split_seed if drawn else None)


def _check_listing(path: Path, listed: Sequence[Listed], *, least_classes: int) -> None:
    if not listed:
        raise DatasetError(
            f"{path} holds no labelled photos. Put each class's photos in a subfolder named like the class."
        )
    _check_classes(path, sorted({entry.label for entry in listed}), least=least_classes)
    missing = [str(entry.file) for entry in listed if not entry.file.is_file()]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} labels name files that are not there: {some(missing)}. Correct the labels."
        )
    twice = [str(file) for file, times in Counter(entry.file for entry in listed).items() if times > 1]
    if twice:
        raise DatasetError(
            f"{path}: {len(twice)} files are labelled more than once: {some(twice)}. Keep one line each."
        )


def _with_training_photos(
    path: Path, readable: list[tuple[Listed, Likeness]], *, drop_small_classes: bool
) -> list[tuple[Listed, Likeness]]:
    """What is left once classes without a photo in `train` are dropped, which is an error unless asked for."""
    trained = {entry.label for entry, _ in readable if entry.split in (None, "train")}
    small = sorted({entry.label for entry, _ in readable} - trained)
    if small and not drop_small_classes:
        raise DatasetError(
            f"{path}: {len(small)} classes have no photo in `train`: {some(small)}. Add photos, or leave these classes "
            "out with `--drop-small-classes`."
        )
    return [pair for pair in readable if pair[0].label in trained]


def _check_classes(path: Path, classes: Sequence[str], *, least: int) -> None:
    if len(classes) < least:
        raise DatasetError(f"{path} has one class ({some(classes)}); telling cars apart needs at least two")


def _open_all(listed: Sequence[Listed], threads: int, *, compare: bool) -> list[tuple[Listed, Likeness | str]]:
    """Each entry with what its photo looks like (only its digest unless `compare`), or why it cannot be read."""

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


def _repeats(judged: Sequence[Path], files: Sequence[Path]) -> tuple[Path, ...]:
    """Those of `files` that show the same picture as a photo of `judged`, or as one of `files` that does."""
    if not files:
        return ()
    with ThreadPoolExecutor(_threads()) as pool:
        groups = groups_of(list(pool.map(_look, [*judged, *files])))
    return tuple(file for file, first in zip(files, groups[len(judged) :], strict=True) if first < len(judged))


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _draw_splits(
    readable: Sequence[tuple[Listed, Likeness]], seed: int, *, held: Set[str], drop_small_classes: bool
) -> list[tuple[Listed, Likeness]]:
    """Fills the missing splits from photos without one or of `train`: class by class, whole groups at a time."""
    wanted = [name for name in _SHARES if all(entry.split != name for entry, _ in readable)]
    splits = [entry.split or "train" for entry, _ in readable]
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups_of([found for _, found in readable])):
        members.setdefault(group, []).append(index)
    by_class: dict[str, list[list[int]]] = {}
    for group_members in members.values():
        of_group = {readable[index][0].label for index in group_members}
        # One picture under two labels is no fair question: it stays in `train`.
        if len(of_group) == 1 and all(splits[index] == "train" for index in group_members):
            by_class.setdefault(of_group.pop(), []).append(group_members)
    labels = sorted({entry.label for entry, _ in readable})
    small = [label for label in labels if len(by_class.get(label, [])) < len(wanted) + 1]
    if small and not drop_small_classes:
        raise DatasetError(
            f"{len(small)} classes are too small to split in {len(wanted) + 1}, near-duplicates counted once: "
            f"{some(small)}. Add photos, or leave these classes out with `--drop-small-classes`."
        )
    digests = [found.digest for _, found in readable]
    for label in labels:
        for split, index in _drawn(by_class.get(label, []), digests, wanted, seed=seed, held=held):
            splits[index] = split
    return [
        (entry._replace(split=split), found)
        for (entry, found), split in zip(readable, splits, strict=True)
        if entry.label not in small
    ]


def _drawn(
    groups: Sequence[list[int]], digests: Sequence[str], wanted: Sequence[str], *, seed: int, held: Set[str]
) -> Iterator[tuple[str, int]]:
    """The drawn split of each photo of a class that does not stay in `train`; each split gets a group at least.

    The order is by a hash of each group's content, so that one photo more or less moves few others. `holdout` and
    `calibration` are taken from its two ends: what leaves one does not come into the other.
    """

    def is_held(group: list[int]) -> bool:
        return any(digests[index] in held for index in group)

    def order(group: list[int]) -> tuple[bool, bytes]:
        content = min(digests[index] for index in group)
        return is_held(group), hashlib.sha256(f"{seed} {content}".encode()).digest()

    queue = sorted(groups, key=order)
    known = sum(len(group) for group in queue if is_held(group))
    for still_needed, split in zip(range(len(wanted), 0, -1), wanted, strict=True):
        size = max(1, round(_SHARES[split] * sum(map(len, groups))))
        if split == "holdout" and 2 * known >= size:
            size = known
        taken = 0
        while taken < size and len(queue) > still_needed:
            chosen = queue.pop(-1 if split == "holdout" else 0)
            taken += len(chosen)
            yield from ((split, index) for index in chosen)
