"""What a job has come to: counts, charts, what contradicts itself, and which photos are worth a look.

Everything comes from one pass over the results, in memory that does not grow with the job beyond fixed limits.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from jobs.records import JobStatus, Result, TopLabel
from jobs.states import Decision, ImageStatus

if TYPE_CHECKING:
    from jobs.job import Job

__all__ = ["BINS", "Conflict", "Duplicate", "Findings", "Group", "Photo", "collect"]

BINS = 20  # of the histogram of confidences
_TOP = 3  # labels of a photo
_BARS = 15
_EXAMPLES = 5  # per code of failures
_ROWS = 30  # of a table of conflicts or duplicates
_LISTINGS = 200_000  # that are looked at for conflicts
_CONTENTS = 500_000  # that are looked at for duplicates
_FOR_CONFLICTS, _FOR_FAILURES, _FOR_EACH_DECISION = 0.15, 0.1, 0.2  # fractions of all photos; the sample has the rest


class Photo(NamedTuple):
    """One image as the report shows it."""

    path: str
    content_hash: str | None
    label: str | None
    make: str | None
    confidence: float | None
    decision: str | None
    top: Sequence[TopLabel]
    code: str | None
    message: str | None


class Group(NamedTuple):
    """Photos, and why they are worth a look."""

    title: str
    reason: str
    photos: list[Photo]


class Conflict(NamedTuple):
    """A listing whose photos show cars of several makes, says the model; each make with its number of photos."""

    listing: str
    makes: list[tuple[str, int]]


class Duplicate(NamedTuple):
    """A content that occurs in several listings, which follow each other in the job; a path in each of the first."""

    listings: int
    paths: list[str]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the report says. Pairs are (name, number of images), the most frequent first."""

    status: JobStatus
    decisions: Mapping[str, int]
    makes: Sequence[tuple[str, int]]
    models: Sequence[tuple[str, int]]
    histogram: Mapping[str, Sequence[int]]
    failures: Sequence[tuple[str, int]]
    examples: Mapping[str, Sequence[Photo]]
    conflicts: Sequence[Conflict]
    all_conflicts: int
    duplicates: Sequence[Duplicate]
    all_duplicates: int
    groups: Sequence[Group]


def collect(job: Job, *, photos: int) -> Findings:
    """Return the findings on a job, with `photos` photos chosen. Raises JobNotFound."""
    found = _Collection(seed=job.id, photos=photos)
    for result in job.results(top_k=_TOP):
        found.add(result)
    return found.findings(job.status())


def _photo(result: Result) -> Photo:
    code, message = result.error or (None, None)
    return Photo(
        result.path,
        result.content_hash,
        result.label,
        result.make,
        result.confidence,
        result.decision,
        result.top,
        code,
        message,
    )


class _Lowest:
    """The photos of the lowest confidence of those that were offered, each content once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, Photo]] = []
        self._contents: set[str | None] = set()
        self._numbers = count()

    def offer(self, result: Result) -> None:
        order = -(result.confidence or 0.0)
        full = len(self._heap) >= self._most
        if not self._most or (full and order <= self._heap[0][0]) or result.content_hash in self._contents:
            return
        if full:
            self._contents.discard(heapq.heappop(self._heap)[-1].content_hash)
        self._contents.add(result.content_hash)
        heapq.heappush(self._heap, (order, -next(self._numbers), _photo(result)))

    def photos(self) -> list[Photo]:
        return [photo for *_, photo in sorted(self._heap, reverse=True)]


class _Sample:
    """Photos of which each one that was offered is as likely as any other; the same ones for the same seed."""

    def __init__(self, most: int, *, seed: str) -> None:
        self._most = most
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._offered = 0
        self._photos: list[Photo] = []

    def offer(self, result: Result) -> None:
        self._offered += 1
        if len(self._photos) < self._most:
            self._photos.append(_photo(result))
        elif self._most and (place := self._random.randrange(self._offered)) < self._most:
            self._photos[place] = _photo(result)

    def photos(self) -> list[Photo]:
        return sorted(self._photos, key=lambda photo: photo.path)


@dataclass
class _Listings:
    """Which makes the photos of each listing show, each with a photo of it."""

    seen: dict[str, dict[str, tuple[int, Photo]]] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        if result.listing is None or result.make is None or result.decision == Decision.UNKNOWN:
            return
        if result.listing not in self.seen and len(self.seen) >= _LISTINGS:
            return
        makes = self.seen.setdefault(result.listing, {})
        images, photo = makes.get(result.make) or (0, _photo(result)._replace(top=()))
        makes[result.make] = (images + 1, photo)

    def conflicts(self) -> list[tuple[Conflict, list[Photo]]]:
        """List those of several makes, the one first whose minority is the largest; with a photo of each make."""
        found = []
        for listing, makes in self.seen.items():
            if len(makes) > 1:
                ordered = sorted(makes.items(), key=lambda item: -item[1][0])
                conflict = Conflict(listing, [(make, images) for make, (images, _) in ordered])
                found.append((conflict, [photo for _, (_, photo) in ordered]))
        return sorted(found, key=lambda pair: (-sum(images for _, images in pair[0].makes[1:]), pair[0].listing))


@dataclass
class _Contents:
    """Which contents occur in more than one listing: how many listings, the last one, and paths in the first ones."""

    seen: dict[str, tuple[int, str, list[str]]] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        if result.listing is None or result.content_hash is None:
            return
        listings, last, paths = self.seen.get(result.content_hash) or (0, None, [])
        if result.listing == last or (not listings and len(self.seen) >= _CONTENTS):
            return
        if len(paths) < _EXAMPLES:
            paths.append(result.path)
        self.seen[result.content_hash] = (listings + 1, result.listing, paths)

    def duplicates(self) -> list[Duplicate]:
        found = [Duplicate(listings, paths) for listings, _, paths in self.seen.values() if listings > 1]
        return sorted(found, key=lambda duplicate: (-duplicate.listings, duplicate.paths))


class _Collection:
    """What one pass over the results collects."""

    def __init__(self, *, seed: str, photos: int) -> None:
        self._photos = photos
        self._decisions: Counter[str] = Counter()
        self._makes: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._histogram = {decision.value: [0] * BINS for decision in Decision}
        self._codes: Counter[str] = Counter()
        self._failed: dict[str, list[Photo]] = {}
        self._listings, self._contents = _Listings(), _Contents()
        self._lowest = {decision.value: _Lowest(int(photos * _FOR_EACH_DECISION)) for decision in Decision}
        self._sample = _Sample(photos, seed=seed)

    def add(self, result: Result) -> None:
        """Take one result into account."""
        if result.error is not None:
            self._codes[result.error.code] += 1
            failed = self._failed.setdefault(result.error.code, [])
            if len(failed) < max(_EXAMPLES, int(self._photos * _FOR_FAILURES)):
                failed.append(_photo(result))
        if result.status != ImageStatus.OK or result.decision is None or result.confidence is None:
            return
        self._decisions[result.decision] += 1
        self._histogram[result.decision][min(BINS - 1, int(result.confidence * BINS))] += 1
        if result.decision != Decision.UNKNOWN:
            self._makes[result.make or ""] += 1
        if result.decision == Decision.MODEL:
            self._models[f"{result.make} {result.model}".strip()] += 1
        self._listings.add(result)
        self._contents.add(result)
        self._lowest[result.decision].offer(result)
        self._sample.offer(result)

    def findings(self, status: JobStatus) -> Findings:
        """Return what has been collected."""
        conflicts, duplicates = self._listings.conflicts(), self._contents.duplicates()
        return Findings(
            status=status,
            decisions={decision.value: self._decisions[decision.value] for decision in Decision},
            makes=self._makes.most_common(_BARS),
            models=self._models.most_common(_BARS),
            histogram=self._histogram,
            failures=self._codes.most_common(),
            examples={code: failed[:_EXAMPLES] for code, failed in self._failed.items()},
            conflicts=[conflict for conflict, _ in conflicts[:_ROWS]],
            all_conflicts=len(conflicts),
            duplicates=duplicates[:_ROWS],
            all_duplicates=len(duplicates),
            groups=list(self._groups([photo for _, found in conflicts for photo in found])),
        )

    def _groups(self, of_conflicts: Sequence[Photo]) -> Iterable[Group]:
        """Yield the photos worth a look, each in one group alone."""
        seen: set[str] = set()

        def new(photos: Iterable[Photo], most: int) -> list[Photo]:
            chosen: list[Photo] = []
            for photo in photos:
                if len(chosen) >= most:
                    break
                if (what := photo.content_hash or photo.path) not in seen:
                    seen.add(what)
                    chosen.append(photo)
            return chosen

        in_turn = zip_longest(*self._failed.values())  # of codes, so that the frequent ones do not crowd out the others
        of_failures: Sequence[Photo] = [photo for photos in in_turn for photo in photos if photo is not None]
        offered: list[tuple[str, str, Sequence[Photo], float]] = [
            (f"Least sure of “{decision}”", _REASONS[decision], lowest.photos(), _FOR_EACH_DECISION)
            for decision, lowest in self._lowest.items()
        ]
        offered += [
            ("From listings in conflict", "one photo of each make that a listing shows", of_conflicts, _FOR_CONFLICTS),
            ("Failed", "a few of each error code", of_failures, _FOR_FAILURES),
        ]
        for title, reason, photos, fraction in offered:
            if chosen := new(photos, int(self._photos * fraction)):
                yield Group(title, reason, chosen)
        if sample := new(self._sample.photos(), self._photos - len(seen)):
            yield Group("A sample", "chosen at random from all that were classified", sample)


_REASONS: Mapping[str, str] = {
    Decision.MODEL: "the label counts as certain, but these only just do",
    Decision.MAKE: "only the make counts as certain; look at the make",
    Decision.UNKNOWN: "nothing counts as certain; the label is a guess",
}
