"""Fitting everything that decides: the thresholds of `model`, of confusable classes among them, and of `make`.

Whether a promise of precision holds is asked out of sample: fitted on a random half of the photos, does it hold on the
other half? The confidence that a threshold needs grows until it does in nine of ten halvings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.cards import Card, Confusable, KnownCar, Score
from model.decision import calibrate, known_scores, looks_unknown, make_table, model_thresholds
from model.evaluation.confusable import confusable_pairs, members
from model.evaluation.thresholds import NEVER, fit_threshold

__all__ = ["FittedDecisions", "fit_decisions"]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

HALVINGS = 200
HELD = 0.9  # of the halvings in which the promise must hold
# Of the normal distribution: 50, 70, 80, 90, 95, 97.5, 99, 99.5 and 99.9 %.
QUANTILES = (0.0, 0.5244, 0.8416, 1.2816, 1.6449, 1.96, 2.3263, 2.5758, 3.0902)
OTHERS_DECIDED = 0.0075  # of other photos, the largest fraction that may be decided `model`
_FEWEST_CONFUSABLE = 100  # photos of confusable classes below which these get no threshold of their own


@dataclass(frozen=True, kw_only=True)
class FittedDecisions:
    """The card with its thresholds, and how they did on halves of the photos (JSON values)."""

    card: Card
    halvings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What is said of photos that pass: the best class and make of each, how sure, and whether right."""

    probabilities: npt.NDArray[np.float32]
    labels: Labels
    top: npt.NDArray[np.intp]
    confidence: Floats
    hit: npt.NDArray[np.bool_]
    make_confidence: Floats
    make_hit: npt.NDArray[np.bool_]

    def of(self, picks: npt.NDArray[Any]) -> _Answers:
        return _Answers(**{name: value[picks] for name, value in vars(self).items()})


def fit_decisions(card: Card, logits: Floats, labels: Labels, *, others: Floats | None = None) -> FittedDecisions:
    """Thresholds fitted on logits (N, C) of `calibration` photos with their labels (N,).

    The card's temperature and its limit for known cars are taken as they are; photos below that limit have no say.
    ``others``: logits (M, C) of photos that show no known car; `model` is raised until few of them reach it.
    """
    answers = _answers(card, logits, labels)
    halves = [np.random.default_rng(seed).permutation(len(answers.labels)) for seed in range(HALVINGS)]
    for quantile in QUANTILES:
        halvings = _halved(card, answers, halves, quantile)
        if halvings["model_held"] >= HELD:
            break
    fitted = _fit(card, answers, quantile)
    if others is not None:
        fitted = _barred(fitted, logits, others)
    return FittedDecisions(card=fitted, halvings=halvings)


def _answers(card: Card, logits: Floats, labels: Labels) -> _Answers:
    passing = ~looks_unknown(logits, card)
    labels, probabilities = labels[passing], calibrate(logits[passing], card.temperature)
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


def _fit(card: Card, answers: _Answers, quantile: float) -> Card:
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
        card = card.model_copy(update={"format": 2})  # which releases without such thresholds refuse
    card = _with(card, model=model, make=NEVER, confusable=confusable)
    rest = answers.confidence < model_thresholds(card)[answers.top]
    return _with(card, make=fit(rest, answers.make_confidence, answers.make_hit))


def _confused(answers: _Answers) -> npt.NDArray[np.bool_]:
    """The photos of confusable classes, by pairs that the other half of the photos tells.

    Those that a half tells itself are the ones it has mistakes in: its own precision there is worse than any other's.
    """
    order = np.random.default_rng(0).permutation(len(answers.labels))
    halves, inside = np.array_split(order, 2), np.zeros(len(order), dtype=np.bool_)
    for one, other in (halves, halves[::-1]):
        member = members(
            confusable_pairs(answers.probabilities[one], answers.labels[one]), answers.probabilities.shape[1]
        )
        inside[other] = member[answers.top[other]] | member[answers.labels[other]]
    return inside


def _halved(card: Card, answers: _Answers, halves: list[npt.NDArray[Any]], quantile: float) -> dict[str, Any]:
    """In how many halvings each decision kept its precision on the half that it was not fitted on."""
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
    return {
        "rounds": len(halves),
        "images_fitted_on": len(answers.labels) // 2,
        "quantile": quantile,
        "model_held": float(np.mean(kept["model"])),
        "make_held": float(np.mean(kept["make"])),
        "model_precision_median": float(np.median(precisions)) if precisions else None,
        "model_precision_tenth": float(np.quantile(precisions, 0.1)) if precisions else None,
    }


def _barred(card: Card, logits: Floats, others: Floats) -> Card:
    """The card with a score, and its least value, that lets few of ``others`` be decided `model`.

    It is the score with the most cars above all of them but one: a single odd photo does not choose.
    """
    of_cars, of_others = (_sure_scores(card, each) for each in (logits, others))
    allowed = int(OTHERS_DECIDED * len(others))
    if len(next(iter(of_others.values()))) <= max(1, allowed):
        return card
    tightest = {name: int((of_cars[name] > np.sort(found)[-2]).sum()) for name, found in of_others.items()}
    best = max(tightest, key=lambda name: tightest[name])
    least = float(np.nextafter(np.sort(of_others[best])[::-1][allowed], np.inf))
    return _with(card.model_copy(update={"format": 2}), known_for_model=KnownCar(score=best, least=least))


def _sure_scores(card: Card, logits: Floats) -> dict[Score, Floats]:
    """The scores of those that would be decided `model`."""
    probabilities = calibrate(logits, card.temperature)
    sure = probabilities.max(axis=1, initial=0) >= model_thresholds(card)[probabilities.argmax(axis=1)]
    sure &= ~looks_unknown(logits, card)
    return {name: scores[sure] for name, scores in known_scores(logits, card.temperature).items()}


def _with(card: Card, **fields: Any) -> Card:
    return card.model_copy(update={"thresholds": card.thresholds.model_copy(update=fields)})
