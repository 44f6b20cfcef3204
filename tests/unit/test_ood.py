"""Out-of-distribution images: the score, its threshold, and what is fitted on what passes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.cards import Card, CardDraft, OodThreshold, parse_card
from model.decision import decide_all, is_out_of_distribution, softmax
from model.evaluation.ood import auroc, compare_scores, fit_ood_threshold
from model.publishing.card_metrics import fit_decision_rule
from tests.support.artifacts import CLASSES, card_fields

Array = npt.NDArray[Any]


@pytest.fixture(name="card")
def _card() -> Card:
    return parse_card(json.dumps(card_fields()).encode())


def _logits(labels: Array, *, margin: float, level: float = 0.0, seed: int = 0) -> Array:
    """Logits around `level` whose label stands out by `margin`."""
    random = np.random.default_rng(seed)
    logits = level + random.normal(scale=0.1, size=(len(labels), len(CLASSES)))
    logits[np.arange(len(labels)), labels] += margin
    return logits.astype(np.float32)


def test_auroc_is_the_chance_that_a_known_photo_scores_higher() -> None:
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1.0
    assert auroc(np.array([1.0]), np.array([2.0])) == 0.0
    assert auroc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5


def test_the_best_score_is_named() -> None:
    # The same softmax on both sides: only the size of the logits tells.
    known, unknown = np.tile([10.0, 8.0, 8.0], (5, 1)), np.tile([2.0, 0.0, 0.0], (4, 1))
    found = compare_scores(known, unknown, temperature=1.0)
    assert found.auroc["max_softmax"] == 0.5
    assert found.auroc["max_logit"] == 1.0
    assert (found.best, found.unknown_images) == ("max_logit", 4)


def test_of_other_known_photos_no_more_than_the_fraction_falls_below_the_threshold() -> None:
    fractions = []
    for seed in range(200):
        scores = np.random.default_rng(seed).gumbel(size=10_735)
        least = fit_ood_threshold(scores[:735], fraction=0.02)
        assert least is not None
        assert (scores[:735] < least).sum() == 13
        fractions.append((scores[735:] < least).mean())
    assert 0.015 < np.mean(fractions) <= 0.02


def test_the_limit_lies_between_two_photos() -> None:
    scores = np.arange(100.0)[::-1]
    assert fit_ood_threshold(scores, fraction=0.05) == 3.5
    assert fit_ood_threshold(np.minimum(scores, 3.0), fraction=0.05) == 3.0
    assert fit_ood_threshold(np.full(100, 7.0), fraction=0.05) == 7.0


def test_too_few_photos_tell_no_limit() -> None:
    assert fit_ood_threshold(np.arange(49.0), fraction=0.02) == 0.0
    assert fit_ood_threshold(np.arange(48.0), fraction=0.02) is None
    assert fit_ood_threshold(np.array([]), fraction=0.02) is None


def test_a_version_evaluated_on_few_photos_rejects_nothing(card: Card) -> None:
    labels = np.arange(40) % 4
    assert fit_decision_rule(card, _logits(labels, margin=8), labels, samples=None).card.thresholds.ood is None


def test_the_score_that_tells_the_sample_pictures_apart_is_the_one_to_reject_by(card: Card) -> None:
    labels = np.arange(200) % 4
    logits = _logits(labels, margin=8)
    unsure = _logits(labels[:20], margin=1, level=20, seed=1)  # logits larger than any car's, and none stands out
    low = _logits(labels[:20], margin=8, level=-5, seed=1)
    of_shape = {"max_softmax", "centered_logit", "logit_margin"}  # which a level added to all logits does not change
    assert _ood(fit_decision_rule(card, logits, labels, samples=unsure).card).score in of_shape
    assert _ood(fit_decision_rule(card, logits, labels, samples=low).card).score == "max_logit"
    assert _ood(fit_decision_rule(card, logits, labels, samples=None).card).score == "energy"


def test_thresholds_are_fitted_on_the_photos_that_pass() -> None:
    """Four of 400 photos are strange: low logits, and yet the network is as sure of a wrong class as can be."""
    labels = np.arange(400) % 4
    said = np.where(np.arange(400) < 4, (labels + 2) % 4, labels)
    logits = _logits(said, margin=5)
    logits[:4] = _logits(said[:4], margin=9, level=-8)
    thresholds = {"model": 0.0, "make": 0.0, "target_precision": 0.98}
    asked = parse_card(json.dumps(card_fields(thresholds=thresholds)).encode())
    found = fit_decision_rule(asked, logits, labels, samples=None).card
    assert is_out_of_distribution(logits, found).nonzero()[0].tolist() == [*range(4)]
    decided = decide_all(softmax(logits, temperature=found.temperature), found, logits)
    assert decided.decision.count("model") == 396
    # Were they among the photos that the thresholds are fitted on, the surest answers would be wrong, and no threshold
    # would keep the promise.
    assert decided.confidence[:4].min() > decided.confidence[4:].max()


def _ood(card: CardDraft) -> OodThreshold:
    assert card.thresholds.ood is not None
    return card.thresholds.ood
