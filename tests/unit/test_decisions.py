"""Thresholds that keep their promise out of sample, classes that are confused, and photos that show no car."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.cards import Card, parse_card
from model.decision import decide_all, softmax
from model.errors import CardInvalid
from model.evaluation import decisions
from model.evaluation.confusable import confusable_pairs, members
from model.evaluation.decisions import KEPT, QUANTILES, fit_decisions
from model.evaluation.thresholds import NEVER
from tests.support.artifacts import card_fields

Array = npt.NDArray[Any]
NAMES = [f"Make{i // 4} Kind{i} Sedan 2012" for i in range(40)]


@pytest.fixture(name="card")
def _card() -> Card:
    return parse_card(json.dumps(card_fields(classes=NAMES, temperature=1.0)).encode())


def draw(seed: int, *, photos: int = 1400, twins: bool = False) -> tuple[Array, Array]:
    """Logits of a calibrated network and the labels drawn from its probabilities; `twins`: 0/1, 2/3, … look alike."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(photos, len(NAMES)))
    favourites = random.integers(len(NAMES), size=photos)
    logits[np.arange(photos), favourites] += random.gumbel(5, 2.5, size=photos)
    if twins:
        pairs = favourites < 12
        logits[pairs, favourites[pairs] ^ 1] = logits[pairs, favourites[pairs]] - random.exponential(1.5, pairs.sum())
    odds = softmax(logits).cumsum(axis=1)
    labels = (odds < random.random((photos, 1))).sum(axis=1).clip(max=len(NAMES) - 1)
    return logits.astype(np.float32), labels


def test_the_promise_holds_on_photos_that_were_not_fitted_on(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "HALVINGS", 50)
    kept, plain = [], []
    for seed in range(12):
        logits, labels = draw(seed)
        fitted = fit_decisions(card, logits, labels)
        others, truth = draw(1000 + seed, photos=20_000)
        decided = decide_all(softmax(others), fitted.card)
        sure = np.array(decided.decision) == "model"
        kept.append((decided.top == truth)[sure].mean() >= card.thresholds.target_precision)
        plain.append(fitted.halvings.model_kept >= KEPT or fitted.halvings.quantile == QUANTILES[-1])
    assert np.mean(kept) >= 0.9
    assert all(plain)


def test_halvings_raise_the_confidence_that_a_threshold_needs(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = draw(3)
    asked = fit_decisions(card, logits, labels)
    monkeypatch.setattr(decisions, "KEPT", 0.0)
    unasked = fit_decisions(card, logits, labels)
    assert asked.halvings.rounds == 200
    assert asked.halvings.images_fitted_on == 700
    assert asked.halvings.quantile > unasked.halvings.quantile
    assert asked.halvings.model_kept > unasked.halvings.model_kept
    assert asked.card.thresholds.model > unasked.card.thresholds.model


def test_the_worst_pairs_are_those_whose_photos_are_taken_for_each_other() -> None:
    labels = np.array([0, 0, 1, 2, 3, 3])
    said = np.array([1, 0, 0, 3, 3, 3])
    probabilities = np.full((6, 4), 0.01)
    probabilities[np.arange(6), said] = 0.9
    assert confusable_pairs(probabilities, labels) == ((0, 1), (2, 3))
    assert confusable_pairs(probabilities, labels, most=1) == ((0, 1),)
    assert members(((0, 1),), 4).tolist() == [True, True, False, False]
    assert confusable_pairs(probabilities, said) == ()


def test_confusable_classes_have_a_threshold_of_their_own(card: Card) -> None:
    logits, labels = draw(5, twins=True)
    fitted = fit_decisions(card, logits, labels).card
    confusable = fitted.thresholds.confusable
    assert confusable is not None
    assert isinstance(fitted, Card)
    assert parse_card(fitted.to_bytes()) == fitted
    assert {frozenset(pair) for pair in confusable.pairs} >= {frozenset(NAMES[i : i + 2]) for i in range(0, 12, 2)}
    assert confusable.model > fitted.thresholds.model
    alone = fitted.model_copy(update={"thresholds": fitted.thresholds.model_copy(update={"confusable": None})})
    others, truth = draw(6, photos=20_000, twins=True)
    kept = []
    for used in (alone, fitted):
        decided = decide_all(softmax(others), used)
        sure = (np.array(decided.decision) == "model") & (decided.top < 12)
        kept.append((decided.top == truth)[sure].mean())
    assert kept[1] > kept[0]


def test_an_answer_among_confusable_classes_needs_its_own_threshold(card: Card) -> None:
    thresholds = card.thresholds.model_dump() | {"model": 0.5, "make": 2.0}
    thresholds |= {"confusable": {"pairs": [NAMES[:2]], "model": 0.8}}
    asked = parse_card(json.dumps(card_fields(classes=NAMES, thresholds=thresholds)).encode())
    probabilities = np.zeros((2, len(NAMES)), dtype=np.float32)
    probabilities[:, 30] = 0.3
    probabilities[0, 0] = probabilities[1, 5] = 0.7
    assert decide_all(probabilities, asked).decision == ["unknown", "model"]


def test_a_card_may_not_call_a_class_confusable_that_it_does_not_have() -> None:
    thresholds: dict[str, object] = {"model": 0.5, "make": 0.5, "target_precision": 0.95, "ood": None}
    thresholds["confusable"] = {"pairs": [[NAMES[0], "Yugo"]], "model": 0.8}
    with pytest.raises(CardInvalid, match="needs format 2"):
        parse_card(json.dumps(card_fields(format=1, classes=NAMES, thresholds=thresholds)).encode())
    with pytest.raises(CardInvalid, match="'Yugo', which is not one of the classes"):
        parse_card(json.dumps(card_fields(classes=NAMES, thresholds=thresholds)).encode())


def test_few_photos_that_show_no_car_are_decided(card: Card) -> None:
    logits, labels = draw(7)
    others = draw(8, photos=400)[0]  # as sure as the cars: only a higher threshold keeps them out
    without, fitted = (fit_decisions(card, logits, labels, ood_logits=given).card for given in (None, others))
    decided = [decide_all(softmax(others), found, others).decision.count("model") for found in (without, fitted)]
    assert decided[0] > 20
    assert decided[1] <= 3
    assert fitted.thresholds.ood_for_model is not None
    assert isinstance(fitted, Card)
    assert parse_card(fitted.to_bytes()) == fitted
    assert fitted.thresholds.model == without.thresholds.model


def test_below_the_score_for_model_only_the_make_is_said(card: Card) -> None:
    thresholds = card.thresholds.model_dump(exclude={"confusable"}) | {"model": 0.5, "make": 0.5}
    thresholds["ood_for_model"] = {"score": "logit_margin", "threshold": 5.0}
    asked = parse_card(json.dumps(card_fields(classes=NAMES, temperature=1.0, thresholds=thresholds)).encode())
    logits = np.zeros((2, len(NAMES)), dtype=np.float32)
    logits[0, 3], logits[1, 3] = 8.0, 4.9
    assert decide_all(softmax(logits * 3), asked, logits).decision == ["model", "make"]
    assert decide_all(softmax(logits * 3), asked).decision == ["model", "model"]
    thresholds["known_for_model"] = {"score": "logit_margin", "least": 5.0}
    del thresholds["ood_for_model"]
    with pytest.raises(CardInvalid, match="known_for_model needs format 2"):
        parse_card(json.dumps(card_fields(format=1, classes=NAMES, thresholds=thresholds)).encode())


def test_no_photos_that_pass_mean_no_decision(card: Card) -> None:
    fitted = fit_decisions(card, np.zeros((0, len(NAMES)), dtype=np.float32), np.zeros(0, dtype=np.int64)).card
    assert fitted.thresholds.model > 1
    assert fitted.thresholds.confusable is None


def test_the_make_is_asked_of_what_the_model_leaves_over(card: Card) -> None:
    logits, labels = draw(9, twins=True)
    fitted = fit_decisions(card, logits, labels).card
    assert fitted.thresholds.make < NEVER
    decided = decide_all(softmax(logits), fitted)
    only_make = np.array(decided.decision) == "make"
    assert (decided.confidence < fitted.thresholds.model)[only_make].any()
    right = np.array(decided.make) == np.array([NAMES[label].split()[0] for label in labels])
    assert right[only_make].mean() >= card.thresholds.target_precision
