"""Whether the version that a training run has made is better than the one in production."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binom

from model.data.readers import some

__all__ = ["HoldoutAccuracy", "PromotionDecision", "decide", "guessing_chance"]

GUESSING_LIMIT = 0.01  # a candidate that guessing would equal more often than this has learned nothing


@dataclass(frozen=True, kw_only=True)
class HoldoutAccuracy:
    """Top-1 of a version on the holdout: `correct` of `images`.

    `most_frequent` is the fraction of the images in the largest class, `classes` the number of the version's classes.
    """

    version: str
    correct: int
    images: int
    most_frequent: float
    classes: int

    @classmethod
    def of(cls, version: str, *, correct: int, labels: Sequence[int], classes: Sequence[str]) -> HoldoutAccuracy:
        """Return the accuracy of a version that has named the classes of `correct` of the images with these labels."""
        largest = max(Counter(labels).values(), default=0)
        return cls(
            version=version,
            correct=correct,
            images=len(labels),
            most_frequent=largest / max(1, len(labels)),
            classes=len(classes),
        )

    @property
    def top1(self) -> float:
        """The fraction of the images that the version names right."""
        return self.correct / self.images if self.images else 0.0

    def to_dict(self) -> Mapping[str, str | float]:
        """Return what the run's row keeps."""
        return {
            "version": self.version,
            "top1": self.top1,
            "images": self.images,
            "most_frequent": self.most_frequent,
            "classes": self.classes,
        }


@dataclass(frozen=True, kw_only=True)
class PromotionDecision:
    """`better`: the version can be used, else it is rejected. `promotable`: it may be promoted without being asked."""

    better: bool
    promotable: bool
    reason: str


def decide(
    candidate: HoldoutAccuracy,
    production: HoldoutAccuracy | str | None,
    *,
    lost: Sequence[str] = (),
    min_gain: float,
    force: bool,
) -> PromotionDecision:
    """Decide on a candidate.

    `production` is None where nothing is live, a text where it cannot be evaluated; `lost` are the classes that it
    knows and the candidate does not. The candidate must be better than guessing, and better than production by
    `min_gain` (a fraction; more than nothing in any case), and is promotable if no class is lost; `force` overrules.
    """
    mine = f"top-1 {candidate.top1:.2%} on {candidate.images:,} holdout images"
    if force:
        return PromotionDecision(better=True, promotable=True, reason=f"{mine}; forced")
    if guessing_chance(candidate) > GUESSING_LIMIT:
        why = f"{mine}, which guessing reaches too ({candidate.most_frequent:.2%} are of the most frequent class)"
        return PromotionDecision(better=False, promotable=False, reason=why)
    if production is None:
        return PromotionDecision(better=True, promotable=True, reason=f"{mine}; nothing was in production")
    if isinstance(production, str):
        why = f"{mine}; {production}. If it is good enough: cars model promote {candidate.version}"
        return PromotionDecision(better=True, promotable=False, reason=why)
    gain = (candidate.correct - production.correct) / candidate.images
    # Counts are compared, not fractions: half an image's worth of rounding must not decide.
    better = candidate.correct > production.correct and gain >= min_gain - 1e-12
    reason = f"{mine}, {production.version} has {production.top1:.2%}: {100 * gain:+.2f} points"
    if not better and min_gain > 0:
        reason += f", and {100 * min_gain:.2f} are asked for"
    if better and lost:
        reason += (
            f"; it does not know {len(lost)} of the {production.classes} classes of {production.version}: "
            f"{some(lost)}. If they are not needed: cars model promote {candidate.version}"
        )
    return PromotionDecision(better=better, promotable=better and not lost, reason=reason)


def guessing_chance(accuracy: HoldoutAccuracy) -> float:
    """Return the chance that always naming the most frequent class is right at least as often."""
    if not 0 < accuracy.most_frequent < 1:
        return 1.0
    return float(binom.sf(accuracy.correct - 1, accuracy.images, accuracy.most_frequent))
