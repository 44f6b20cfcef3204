"""Which of a data set's images are learned from, and which are only evaluated on; and classes that have too few."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Final

from model.data.near_duplicates import Likeness, groups_of
from model.data.readers import Listed, some
from model.errors import DatasetError

__all__ = ["split_by_class"]

_SHARES: Final = {"holdout": 0.1, "calibration": 0.1}

Readable = Sequence[tuple[Listed, Likeness]]
Groups = Mapping[str, Sequence[list[int]]]


def split_by_class(
    path: Path,
    readable: Readable,
    *,
    seed: int,
    draw: bool,
    earlier_holdout: Set[str] = frozenset(),
    min_photos: int | None = None,
    leave_out: Set[str] = frozenset(),
) -> tuple[list[tuple[Listed, Likeness]], dict[str, int]]:
    """Return the images with every split filled in, and the classes that were left out with how many images they have.

    With `draw`, splits that no image has are filled from images without one or of `train`: class by class, whole
    groups of near-duplicates at a time. What is counted are different images that may be learned from. Classes with
    fewer than `min_photos`, and those in `leave_out`, are left out. Raises DatasetError for others that have too few.
    """
    wanted = [name for name in _SHARES if draw and all(entry.split != name for entry, _ in readable)]
    groups = _drawable(readable) if draw else _learnable(readable)
    labels = sorted({entry.label for entry, _ in readable})
    counts = {label: len(groups.get(label, ())) for label in labels}
    left_out = {label: n for label, n in counts.items() if n < (min_photos or 0) or label in leave_out}
    small = [label for label in labels if label not in left_out and counts[label] < len(wanted) + 1]
    if small:
        raise DatasetError(_too_small(path, small, needed=len(wanted) + 1, drawn=draw))
    splits = [entry.split or "train" for entry, _ in readable]
    digests = [found.digest for _, found in readable]
    for label in labels:
        for split, index in _drawn(groups.get(label, ()), digests, wanted, seed=seed, earlier_holdout=earlier_holdout):
            splits[index] = split
    filled = [
        (entry._replace(split=split), found)
        for (entry, found), split in zip(readable, splits, strict=True)
        if entry.label not in left_out
    ]
    return filled, left_out


def _drawable(readable: Readable) -> Groups:
    """Return near-duplicates of each class that may be drawn; one image under two labels is not a fair question."""
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups_of([found for _, found in readable])):
        members.setdefault(group, []).append(index)
    by_class: dict[str, list[list[int]]] = {}
    for group_members in members.values():
        of_group = {readable[index][0].label for index in group_members}
        if len(of_group) == 1 and all(readable[index][0].split in (None, "train") for index in group_members):
            by_class.setdefault(of_group.pop(), []).append(group_members)
    return by_class


def _learnable(readable: Readable) -> Groups:
    """Return the images of each class in `train`, those with the same bytes together."""
    by_class: dict[str, dict[str, list[int]]] = {}
    for index, (entry, found) in enumerate(readable):
        if entry.split in (None, "train"):
            by_class.setdefault(entry.label, {}).setdefault(found.digest, []).append(index)
    return {label: list(groups.values()) for label, groups in by_class.items()}


def _too_small(path: Path, small: Sequence[str], *, needed: int, drawn: bool) -> str:
    what = f"are too small to split in {needed}, near-duplicates counted once" if drawn else "have no image in `train`"
    return (
        f"{path}: {len(small)} classes {what}: {some(small)}; add images, or train without these classes "
        f"(`--min-photos {needed}`)"
    )


def _drawn(
    groups: Sequence[list[int]], digests: Sequence[str], wanted: Sequence[str], *, seed: int, earlier_holdout: Set[str]
) -> Iterator[tuple[str, int]]:
    """Return the drawn split of each image of a class that does not stay in `train`; each split gets a group at least.

    The order is by a hash of each group's content, so that one image more or less moves few others. `holdout` and
    `calibration` are taken from its two ends: what leaves one does not come into the other.
    """

    def was_in_holdout(group: list[int]) -> bool:
        return any(digests[index] in earlier_holdout for index in group)

    def order(group: list[int]) -> tuple[bool, bytes]:
        content = min(digests[index] for index in group)
        return was_in_holdout(group), hashlib.sha256(f"{seed} {content}".encode()).digest()

    queue = sorted(groups, key=order)
    known = sum(len(group) for group in queue if was_in_holdout(group))
    for still_needed, split in zip(range(len(wanted), 0, -1), wanted, strict=True):
        size = max(1, round(_SHARES[split] * sum(map(len, groups))))
        if split == "holdout" and 2 * known >= size:
            size = known
        taken = 0
        while taken < size and len(queue) > still_needed:
            chosen = queue.pop(-1 if split == "holdout" else 0)
            taken += len(chosen)
            yield from ((split, index) for index in chosen)
