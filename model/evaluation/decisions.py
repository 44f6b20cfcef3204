"""Fitting everything that decides: the thresholds of `model`, of confusable classes among them, and of `make`.

Whether a promise of precision holds is asked out of sample: fitted on a random half of the images, does it hold on the
other half? The confidence that a threshold needs grows until it does in nine of ten halvings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.cards import CardDraft, Confusable, OodThreshold, Score
from model.decision import is_out_of_distribution, make_table, model_thresholds, ood_scores, softmax
from model.evaluation.confusable import confusable_pairs, members
from model.evaluation.thresholds import NEVER, fit_threshold

__all__ = ["FittedDecisions", "Halvings", "fit_decisions"]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

HALVINGS = 200
KEPT = 0.9  # of the halvings, in which the promise must be kept
# Of the normal distribution: 50, 70, 80, 90, 95, 97.5, 99, 99.5 and 99.9 %.
QUANTILES = (0.0, 0.5244, 0.8416, 1.2816, 1.6449, 1.96, 2.3263, 2.5758, 3.0902)
OOD_DECIDED = 0.0075  # of out-of-distribution images, the largest fraction that may be decided `model`
_FEWEST_CONFUSABLE = 100  # images of confusable classes below which these get no threshold of their own


@dataclass(frozen=True, kw_only=True)
class Halvings:
    """In which fraction of `rounds` halvings each decision kept its precision on the half it was not fitted on.

    `quantile` of the normal distribution: how sure a threshold is of its precision. The precision of `model` over the
    rounds by its median and its tenth percentile, None where nothing was decided.
    """

    rounds: int
    images_fitted_on: int
    quantile: float
    model_kept: float
    make_kept: float
    model_precision_median: float | None
    model_precision_tenth: float | None


@dataclass(frozen=True, kw_only=True)
class FittedDecisions:
    """The card with its thresholds, and how they did on halves of the images."""

    card: CardDraft
    halvings: Halvings


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What is said of images that pass: the best class and make of each, how sure, and whether right."""

    probabilities: npt.NDArray[np.float32]
    labels: Labels
    top: npt.NDArray[np.intp]
    confidence: Floats
    hit: npt.NDArray[np.bool_]
    make_confidence: Floats
    make_hit: npt.NDArray[np.bool_]

    def of(self, picks: npt.NDArray[Any]) -> _Answers:
        return _Answers(**{name: value[picks] for name, value in vars(self).items()})


def fit_decisions(
    card: CardDraft, logits: Floats, labels: Labels, *, ood_logits: Floats | None = None
) -> FittedDecisions:
    """Fit thresholds on logits (N, C) of `calibration` images with their labels (N,).

    The card's temperature and its threshold for out-of-distribution images are taken as they are; images below that
    threshold have no say. `ood_logits` (M, C) are of images that show no car of the classes: few of them may be decided
    `model`.
    """
    answers = _answers(card, logits, labels)
    halves = [np.random.default_rng(seed).permutation(len(answers.labels)) for seed in range(HALVINGS)]
    for quantile in QUANTILES:
        halvings = _halvings(card, answers, halves, quantile)
        if halvings.model_kept >= KEPT:
            break
    fitted = _fit(card, answers, quantile)
    if ood_logits is not None:
        fitted = _with_ood_for_model(fitted, logits, ood_logits)
    return FittedDecisions(card=fitted, halvings=halvings)


def _answers(card: CardDraft, logits: Floats, labels: Labels) -> _Answers:
    passing = ~is_out_of_distribution(logits, card)
    labels, probabilities = labels[passing], softmax(logits[passing], temperature=card.temperature)
    names, make_of = make_table(card)
    by_make = probabilities @ (make_of[:, None] == np.arange(len(names))).astype(np.float32)
    top = probabilities.argmax(axis=1)
    return _Answers(
        probabilities=probabilities,
        labels=labels,
        top=top,
        confidence=probabilities.max(axis=1, initial=0),
        hit=top == labels,
        make_confidence=by_make.max(axis=1, initial=0).clip(max=1),
        make_hit=by_make.argmax(axis=1) == make_of[labels],
    )


def _fit(card: CardDraft, answers: _Answers, quantile: float) -> CardDraft:
    target = card.thresholds.target_precision

    def fit(chosen: npt.NDArray[np.bool_], confidence: Floats, hit: npt.NDArray[np.bool_]) -> float:
        return fit_threshold(confidence[chosen], hit[chosen], target=target, z=quantile)

    model = fit(np.ones(len(answers.labels), dtype=np.bool_), answers.confidence, answers.hit)
    pairs = confusable_pairs(answers.probabilities, answers.labels)
    confusable = None
    inside = _confused(answers)
    if pairs and inside.sum() >= _FEWEST_CONFUSABLE:
        own = max(model, fit(inside, answers.confidence, answers.hit))
        confusable = Confusable(pairs=tuple((card.classes[a], card.classes[b]) for a, b in pairs), model=own)
    card = card.with_thresholds(model=model, make=NEVER, confusable=confusable)
    rest = answers.confidence < model_thresholds(card)[answers.top]
    return card.with_thresholds(make=fit(rest, answers.make_confidence, answers.make_hit))


def _confused(answers: _Answers) -> npt.NDArray[np.bool_]:
    """Return the images of confusable classes, by the pairs of the other half of the images.

    The pairs of the same half are the ones it has mistakes in: its own precision there is worse than any other's.
    """
    order = np.random.default_rng(0).permutation(len(answers.labels))
    halves, inside = np.array_split(order, 2), np.zeros(len(order), dtype=np.bool_)
    for one, other in (halves, halves[::-1]):
        member = members(
            confusable_pairs(answers.probabilities[one], answers.labels[one]), answers.probabilities.shape[1]
        )
        inside[other] = member[answers.top[other]] | member[answers.labels[other]]
    return inside


def _halvings(card: CardDraft, answers: _Answers, halves: list[npt.NDArray[Any]], quantile: float) -> Halvings:
    """Return in how many halvings each decision kept its precision on the half that it was not fitted on."""
    kept: dict[str, list[bool]] = {"model": [], "make": []}
    precisions, target = [], card.thresholds.target_precision
    for order in halves:
        middle = len(order) // 2
        fitted, other = _fit(card, answers.of(order[:middle]), quantile), answers.of(order[middle:])
        sure = other.confidence >= model_thresholds(fitted)[other.top]
        sure_make = ~sure & (other.make_confidence >= fitted.thresholds.make)
        for name, right in (("model", other.hit[sure]), ("make", other.make_hit[sure_make])):
            kept[name].append(not len(right) or bool(right.mean() >= target))
        if sure.any():
            precisions.append(float(other.hit[sure].mean()))
    return Halvings(
        rounds=len(halves),
        images_fitted_on=len(answers.labels) // 2,
        quantile=quantile,
        model_kept=float(np.mean(kept["model"])),
        make_kept=float(np.mean(kept["make"])),
        model_precision_median=float(np.median(precisions)) if precisions else None,
        model_precision_tenth=float(np.quantile(precisions, 0.1)) if precisions else None,
    )


def _with_ood_for_model(card: CardDraft, logits: Floats, ood_logits: Floats) -> CardDraft:
    """Return the card with a score, and its threshold, that lets few out-of-distribution images be decided `model`.

    It is the score with the most cars above all of them but one: a single odd image does not choose.
    """
    of_cars, of_ood = (_sure_scores(card, each) for each in (logits, ood_logits))
    allowed = int(OOD_DECIDED * len(ood_logits))
    if len(next(iter(of_ood.values()))) <= max(1, allowed):
        return card
    tightest = {name: int((of_cars[name] > np.sort(found)[-2]).sum()) for name, found in of_ood.items()}
    best = max(tightest, key=lambda name: tightest[name])
    threshold = float(np.nextafter(np.sort(of_ood[best])[::-1][allowed], np.inf))
    return card.with_thresholds(ood_for_model=OodThreshold(score=best, threshold=threshold))


def _sure_scores(card: CardDraft, logits: Floats) -> dict[Score, Floats]:
    """Return the scores of those that would be decided `model`."""
    probabilities = softmax(logits, temperature=card.temperature)
    sure = probabilities.max(axis=1, initial=0) >= model_thresholds(card)[probabilities.argmax(axis=1)]
    sure &= ~is_out_of_distribution(logits, card)
    return {name: scores[sure] for name, scores in ood_scores(logits, card.temperature).items()}
