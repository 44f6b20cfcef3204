"""What a job has come to: counts, charts, what contradicts itself, and which images are worth a look.

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
    from jobs.report.subject import ReportedJob

__all__ = ["BINS", "LISTINGS", "Conflict", "Duplicate", "Findings", "Group", "Image", "collect"]

BINS = 20  # of the histogram of confidences
_TOP = 3  # labels of an image
_BARS = 15
_EXAMPLES = 5  # per code of failures
_ROWS = 30  # of a table of conflicts or duplicates
LISTINGS = 200_000  # that are looked at for conflicts
_CONTENTS = 500_000  # that are looked at for duplicates
_FOR_CONFLICTS, _FOR_FAILURES, _FOR_EACH_DECISION = 0.15, 0.1, 0.2  # fractions of all images; the sample has the rest


class Image(NamedTuple):
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
    """Images, and why they are worth a look."""

    title: str
    reason: str
    images: list[Image]


class Conflict(NamedTuple):
    """A listing whose images show cars of several makes; each make with the number of images that seem to show it."""

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
    examples: Mapping[str, Sequence[Image]]
    conflicts: Sequence[Conflict]
    all_conflicts: int
    duplicates: Sequence[Duplicate]
    all_duplicates: int
    groups: Sequence[Group]


def collect(job: ReportedJob, *, images: int, in_conflict: Iterable[str] | None) -> Findings:
    """Return the findings on a job, with `images` images chosen. Raises JobNotFound.

    `in_conflict`: the listings of which the verdict says so; None where there are no verdicts.
    """
    found = _Collection(seed=job.id, images=images, in_conflict=in_conflict)
    for result in job.results(top_k=_TOP):
        found.add(result)
    return found.findings(job.status())


def _image(result: Result) -> Image:
    code, message = result.error or (None, None)
    return Image(
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
    """The images of the lowest confidence of those that were offered, each content once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, Image]] = []
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
        heapq.heappush(self._heap, (order, -next(self._numbers), _image(result)))

    def images(self) -> list[Image]:
        return [image for *_, image in sorted(self._heap, reverse=True)]


class _Sample:
    """Images of which each one that was offered is as likely as any other; the same ones for the same seed."""

    def __init__(self, most: int, *, seed: str) -> None:
        self._most = most
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._offered = 0
        self._images: list[Image] = []

    def offer(self, result: Result) -> None:
        self._offered += 1
        if len(self._images) < self._most:
            self._images.append(_image(result))
        elif self._most and (place := self._random.randrange(self._offered)) < self._most:
            self._images[place] = _image(result)

    def images(self) -> list[Image]:
        return sorted(self._images, key=lambda image: image.path)


@dataclass
class _Listings:
    """Which makes the images of each listing show, each with an image of it.

    The verdicts say which listings are in conflict. Of a job without verdicts it is all whose images show several makes
    for certain.
    """

    in_conflict: frozenset[str] | None
    seen: dict[str, dict[str, tuple[int, Image]]] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        if result.listing is None or result.make is None:
            return
        if self.in_conflict is not None:
            if result.listing not in self.in_conflict:
                return
        elif result.decision == Decision.UNKNOWN or (result.listing not in self.seen and len(self.seen) >= LISTINGS):
            return
        makes = self.seen.setdefault(result.listing, {})
        images, image = makes.get(result.make) or (0, _image(result)._replace(top=()))
        makes[result.make] = (images + 1, image)

    def conflicts(self) -> list[tuple[Conflict, list[Image]]]:
        """List those in conflict, the one first whose minority is the largest; with an image of each make."""
        found = []
        for listing, makes in self.seen.items():
            if len(makes) > 1 or self.in_conflict is not None:
                ordered = sorted(makes.items(), key=lambda item: -item[1][0])
                conflict = Conflict(listing, [(make, images) for make, (images, _) in ordered])
                found.append((conflict, [image for _, (_, image) in ordered]))
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

    def __init__(self, *, seed: str, images: int, in_conflict: Iterable[str] | None) -> None:
        self._images = images
        self._decisions: Counter[str] = Counter()
        self._makes: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._histogram = {decision.value: [0] * BINS for decision in Decision}
        self._codes: Counter[str] = Counter()
        self._failed: dict[str, list[Image]] = {}
        self._listings = _Listings(None if in_conflict is None else frozenset(in_conflict))
        self._contents = _Contents()
        self._lowest = {decision.value: _Lowest(int(images * _FOR_EACH_DECISION)) for decision in Decision}
        self._sample = _Sample(images, seed=seed)

    def add(self, result: Result) -> None:
        """Take one result into account."""
        if result.error is not None:
            self._codes[result.error.code] += 1
            failed = self._failed.setdefault(result.error.code, [])
            if len(failed) < max(_EXAMPLES, int(self._images * _FOR_FAILURES)):
                failed.append(_image(result))
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
            groups=list(self._groups([image for _, found in conflicts for image in found])),
        )

    def _groups(self, of_conflicts: Sequence[Image]) -> Iterable[Group]:
        """Yield the images worth a look, each in one group alone."""
        seen: set[str] = set()

        def new(images: Iterable[Image], most: int) -> list[Image]:
            chosen: list[Image] = []
            for image in images:
                if len(chosen) >= most:
                    break
                if (what := image.content_hash or image.path) not in seen:
                    seen.add(what)
                    chosen.append(image)
            return chosen

        in_turn = zip_longest(*self._failed.values())  # of codes, so that the frequent ones do not crowd out the others
        of_failures: Sequence[Image] = [image for images in in_turn for image in images if image is not None]
        offered: list[tuple[str, str, Sequence[Image], float]] = [
            (f"Least sure of “{decision}”", _REASONS[decision], lowest.images(), _FOR_EACH_DECISION)
            for decision, lowest in self._lowest.items()
        ]
        offered += [
            ("From listings in conflict", "one image of each make that a listing shows", of_conflicts, _FOR_CONFLICTS),
            ("Failed", "a few of each error code", of_failures, _FOR_FAILURES),
        ]
        for title, reason, images, fraction in offered:
            if chosen := new(images, int(self._images * fraction)):
                yield Group(title, reason, chosen)
        if sample := new(self._sample.images(), self._images - len(seen)):
            yield Group("A sample", "chosen at random from all that were classified", sample)


_REASONS: Mapping[str, str] = {
    Decision.MODEL: "the label counts as certain, but these only just do",
    Decision.MAKE: "only the make counts as certain; look at the make",
    Decision.UNKNOWN: "nothing counts as certain; the label is a guess",
}
