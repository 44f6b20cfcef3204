"""Whether what a training run has made is better than what is in production."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.data.readers import some

__all__ = ["Judged", "Verdict", "compare", "guessing_chance"]

GUESSING_LIMIT = 0.01  # a candidate that guessing would equal more often than this has learned nothing


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Top-1 of a version on the holdout: `right` of `images`; `most_frequent` is the share of the largest class."""

    version: str
    top1: float
    images: int
    most_frequent: float
    classes: int

    @classmethod
    def of(cls, version: str, top1: float, labels: Sequence[int], *, classes: Sequence[str]) -> Judged:
        largest = max(Counter(labels).values(), default=0)
        return cls(
            version=version,
            top1=top1,
            images=len(labels),
            most_frequent=largest / max(1, len(labels)),
            classes=len(classes),
        )

    @property
    def right(self) -> int:
        return round(self.top1 * self.images)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`better`: the version can be used, else it is rejected. `promotable`: it may go live by itself."""

    better: bool
    promotable: bool
    reason: str


def compare(
    candidate: Judged, production: Judged | str | None, *, lost: Sequence[str] = (), min_gain: float, force: bool
) -> Verdict:
    """The verdict on a candidate.

    `production` is None where nothing is live, a text where it cannot be judged; `lost` are the classes that it knows
    and the candidate does not. The candidate must be better than guessing, and better than production by `min_gain` (a
    share; more than nothing in any case), and goes live by itself if no class is lost; `force` overrules.
    """
    mine = f"top-1 {candidate.top1:.2%} on {candidate.images:,} holdout photos"
    if force:
        return Verdict(better=True, promotable=True, reason=f"{mine}; forced")
    if guessing_chance(candidate) > GUESSING_LIMIT:
        why = f"{mine}, which guessing reaches too ({candidate.most_frequent:.2%} are of the most frequent class)"
        return Verdict(better=False, promotable=False, reason=why)
    if production is None:
        return Verdict(better=True, promotable=True, reason=f"{mine}; nothing was in production")
    if isinstance(production, str):
        why = f"{mine}; {production}. If it is good enough: cars model promote {candidate.version}"
        return Verdict(better=True, promotable=False, reason=why)
    gain = (candidate.right - production.right) / candidate.images
    # Counts are compared, not shares: half a photo's worth of rounding must not decide.
    better = candidate.right > production.right and gain >= min_gain - 1e-12
    reason = f"{mine}, {production.version} has {production.top1:.2%}: {100 * gain:+.2f} points"
    if not better and min_gain > 0:
        reason += f", and {100 * min_gain:.2f} are asked for"
    if better and lost:
        reason += (
            f"; it does not know {len(lost)} of the {production.classes} classes of {production.version}: "
            f"{some(lost)}. If they are not needed: cars model promote {candidate.version}"
        )
    return Verdict(better=better, promotable=better and not lost, reason=reason)


def guessing_chance(judged: Judged) -> float:
    """The chance that always naming the most frequent class is right at least as often (a binomial tail)."""
    n, p = judged.images, judged.most_frequent
    if p <= 0 or p >= 1:
        return 1.0
    terms = (
        math.exp(
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(p)
            + (n - k) * math.log1p(-p)
        )
        for k in range(judged.right, n + 1)
    )
    return min(1.0, math.fsum(terms))
