"""What may be said of a listing: the probabilities of its images pooled, a decision, whether they show several cars.

Everything that the rule needs is a sum over the images, so that a listing of any size is decided a part at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.cards import CardDraft, ListingRule
from model.decision import Decision, make_table, model_thresholds, softmax

__all__ = ["DEFAULT_RULE", "Evidence", "ListingPart", "Pooling", "Verdict", "verdict"]

DEFAULT_RULE: Final = ListingRule(exponent=0.4, conflict=3.0)
"""The rule of cards that have none: it was fitted, by `model.evaluation.listings`, to an earlier version."""

USED: Final = 0.1  # the weight from which on a image counts as used
_LEAST_PROBABILITY = 1e-7
_LEAST_MAKE = 1e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ListingPart:
    """K different contents of one listing: what names each, its stored probabilities (K, C) and its decision."""

    keys: Sequence[int]
    probabilities: NDArray[np.floating]
    decisions: Sequence[Decision]


@dataclass(slots=True)
class Evidence:
    """Sums over a listing's images, weight times what each says.

    `logs` (C,) of ln p; `make_logs` (M,) of ln q, q the makes' probabilities; `pair_logs` (M, M) of the larger ln q of
    two makes; `best_make` (M,) of the weights by best make. `best` (C,) is the largest probability of each class in a
    image of any weight, `best_key` (C,) that image's key. `any_model`: whether a image is decided `model`.
    """

    logs: Floats
    make_logs: Floats
    pair_logs: Floats
    best_make: Floats
    best: Floats
    best_key: NDArray[np.int64]
    weight: float = 0.0
    used: int = 0
    any_model: bool = False

    def pooled(self, exponent: float) -> NDArray[np.float32]:
        """Return the probabilities (C,) of the listing; the weight must be above 0."""
        return softmax(max(1.0, self.weight) ** exponent * self.logs / self.weight)

    def conflict(self, exponent: float) -> float:
        """Return by how much two makes explain the images better than one does; 0 without images of any weight."""
        gain = float(self.pair_logs.max() - self.make_logs.max())
        return gain / float(max(1.0, self.weight) ** (1 - exponent))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is said of a listing.

    `probabilities` (C,) are the pooled ones, `top` the index of the best class; `confidence` is that class's, where the
    decision is `make` the make's. `agreement` is the fraction of the weight whose best make is the verdict's, `used`
    the number of images that say something, `image` the key of the one in which the best class is most probable. Where
    no image says anything, `probabilities`, `agreement` and `image` are None, and the confidence is 0.
    """

    decision: Decision
    probabilities: NDArray[np.float32] | None
    top: int | None
    make: str | None
    confidence: float
    agreement: float | None
    used: int
    conflict: bool
    image: int | None


def verdict(images: Iterable[ListingPart], card: CardDraft) -> Verdict:
    """Return the verdict on one listing, whose images may come in several parts; no content may come twice.

    The rule is the card's `thresholds.listing`, or `DEFAULT_RULE`. With w the weights of `Pooling.weights`, k their sum
    and j the larger of k and 1, the pooled probabilities are softmax(j^exponent · Σ w ln p / k), p floored at 1e-7: one
    image alone keeps its probabilities. They are decided on by the card's thresholds of single images. The images are
    in conflict, and the listing is `unknown`, if (max over makes m, n of Σ w max(ln q(m), ln q(n)) - max over m of
    Σ w ln q(m)) / j^(1-exponent) reaches `conflict`, q the makes' probabilities floored at 1e-3.
    """
    return Pooling(card).verdict(images)


class Pooling:
    """Gives verdicts by one card; what they need of it is worked out once."""

    def __init__(self, card: CardDraft) -> None:
        self._rule = card.thresholds.listing or DEFAULT_RULE
        self._makes, self._make_of = make_table(card)
        self._member = (self._make_of[:, None] == np.arange(len(self._makes))).astype(np.float64)
        self._for_model = model_thresholds(card)
        self._for_make = card.thresholds.make

    def verdict(self, images: Iterable[ListingPart]) -> Verdict:
        """Return the verdict on one listing; see `verdict`."""
        found = self.evidence(images)
        if not found.weight:
            return _NOTHING
        pooled = found.pooled(self._rule.exponent)
        by_make = pooled @ self._member
        top, best_make = int(pooled.argmax()), int(by_make.argmax())
        conflict = found.conflict(self._rule.exponent) >= self._rule.conflict
        decision: Decision = "unknown"
        if not conflict and found.any_model and pooled[top] >= self._for_model[top]:
            decision = "model"
        elif not conflict and by_make[best_make] >= self._for_make:
            decision = "make"
        make = best_make if decision == "make" else int(self._make_of[top])
        return Verdict(
            decision=decision,
            probabilities=pooled,
            top=top,
            make=self._makes[make],
            confidence=min(1.0, float(by_make[make] if decision == "make" else pooled[top])),
            agreement=float(found.best_make[make] / found.weight),
            used=found.used,
            conflict=conflict,
            image=int(found.best_key[top]),
        )

    def weights(self, probabilities: NDArray[np.floating], decisions: Sequence[Decision]) -> Floats:
        """Return how much each of K images says, from 0 to 1 (K,): 1 - H(p) / ln C, H the entropy.

        0 where the image was rejected as out of distribution, which its row tells: it is `unknown` although its
        probabilities (K, C) reach a threshold.
        """
        given = np.asarray(probabilities, dtype=np.float64)
        entropy = -(given * np.log(np.maximum(given, np.finfo(np.float64).tiny))).sum(axis=1)
        weights = (1 - entropy / np.log(given.shape[1])).clip(0, 1)
        reaches = given.max(axis=1) >= self._for_model[given.argmax(axis=1)]
        reaches |= (given @ self._member).max(axis=1) >= self._for_make
        weights[reaches & (np.array(decisions) == "unknown")] = 0
        return np.asarray(weights)

    def evidence(self, images: Iterable[ListingPart]) -> Evidence:
        """Return the sums over these images."""
        classes, makes = self._member.shape
        sums = Evidence(
            logs=np.zeros(classes),
            make_logs=np.zeros(makes),
            pair_logs=np.zeros((makes, makes)),
            best_make=np.zeros(makes),
            best=np.full(classes, -1.0),
            best_key=np.full(classes, -1, dtype=np.int64),
        )
        for part in images:
            if len(part.keys):
                self._add(sums, part)
        return sums

    def _add(self, sums: Evidence, part: ListingPart) -> None:
        given = np.asarray(part.probabilities, dtype=np.float64)
        weights = self.weights(given, part.decisions)
        counted = np.flatnonzero(weights)
        if not len(counted):
            return
        given, weights = given[counted], weights[counted]
        by_make = given @ self._member
        logs = np.log(np.maximum(by_make, _LEAST_MAKE))
        sums.any_model |= any(part.decisions[at] == "model" for at in counted.tolist())
        sums.weight += float(weights.sum())
        sums.used += int((weights >= USED).sum())
        sums.logs += weights @ np.log(np.maximum(given, _LEAST_PROBABILITY))
        sums.make_logs += weights @ logs
        for weight, row in zip(weights, logs, strict=True):
            sums.pair_logs += weight * np.maximum.outer(row, row)
        np.add.at(sums.best_make, by_make.argmax(axis=1), weights)
        best = given.argmax(axis=0)
        largest = given[best, np.arange(given.shape[1])]
        better = largest > sums.best
        sums.best[better] = largest[better]
        sums.best_key[better] = np.asarray(part.keys, dtype=np.int64)[counted[best[better]]]


_NOTHING = Verdict(
    decision="unknown",
    probabilities=None,
    top=None,
    make=None,
    confidence=0.0,
    agreement=None,
    used=0,
    conflict=False,
    image=None,
)
