"""Fitting everything that decides: the thresholds of `model`, of confusable classes among them, and of `make`.

Whether a promise of precision holds is asked out of sample: fitted on a random half of the photos, does it hold on the
other half? The confidence that a threshold needs grows until it does in nine of ten halvings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.card import Card, Confusable
from model.decision import calibrate, looks_unknown, make_table, model_thresholds
from model.training.confusable import confusable_pairs, members
from model.training.thresholds import fit_threshold

__all__ = ["FittedDecisions", "fit_decisions"]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

HALVINGS = 200
HELD = 0.9  # of the halvings in which the promise must hold
QUANTILES = (
    1.2816,
    1.6449,
    1.96,
    2.3263,
    2.5758,
    3.0902,
    3.7190,
)  # of the normal: 90, 95, 97.5, 99, 99.5, 99.9, 99.99 %
OTHERS_DECIDED = 0.005  # of other photos, the largest fraction that may be decided `model`
_FEWEST_CONFUSABLE = 100  # photos of confusable classes below which these get no threshold of their own
_NO_ROOM = 1.01


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
        fitted = _raised(fitted, others)
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

    pairs = confusable_pairs(answers.probabilities, answers.labels)
    member = members(pairs, len(card.classes))
    inside = member[answers.top] | member[answers.labels]  # a mistake belongs to the class of its photo, too
    if inside.sum() < _FEWEST_CONFUSABLE:
        pairs, inside = (), np.zeros_like(inside)
    model = fit(~member[answers.top] if pairs else ~inside, answers.confidence, answers.hit)
    confusable = None
    if pairs:
        own = max(model, fit(inside, answers.confidence, answers.hit))
        confusable = Confusable(pairs=tuple((card.classes[a], card.classes[b]) for a, b in pairs), model=own)
    card = _with(card, model=model, make=_NO_ROOM, confusable=confusable)
    rest = answers.confidence < model_thresholds(card)[answers.top]
    return _with(card, make=fit(rest, answers.make_confidence, answers.make_hit))


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


def _raised(card: Card, others: Floats) -> Card:
    """The card whose `model` thresholds let at most a few of ``others`` through."""
    passing = others[~looks_unknown(others, card)]
    probabilities = calibrate(passing, card.temperature)
    top, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1, initial=0)
    through = np.sort(confidence[confidence >= model_thresholds(card)[top]])[::-1]
    allowed = int(OTHERS_DECIDED * len(others))
    if len(through) <= allowed:
        return card
    least = min(_NO_ROOM, float(np.nextafter(through[allowed], np.float32(2))))
    confusable = card.thresholds.confusable
    if confusable is not None:
        confusable = confusable.model_copy(update={"model": max(confusable.model, least)})
    return _with(card, model=max(card.thresholds.model, least), confusable=confusable)


def _with(card: Card, **fields: Any) -> Card:
    return card.model_copy(update={"thresholds": card.thresholds.model_copy(update=fields)})
