from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.cards import Card, parse_card
from model.evaluation.calibration import (
    expected_calibration_error,
    negative_log_likelihood,
    simulated_error_limit,
)
from model.evaluation.metrics import area_under_risk_coverage, coverage_at, evaluate
from model.evaluation.thresholds import NEVER, fit_threshold, lower_bound
from model.publishing.temperature import fit_temperature
from tests.support.artifacts import card_fields

Array = npt.NDArray[Any]


def _card(**changes: Any) -> Card:
    return parse_card(json.dumps(card_fields(temperature=1.0, **changes)).encode())


def _sampled(count: int, classes: int, *, seed: int = 0) -> tuple[Array, Array]:
    """Logits whose softmax is the truth: each label is drawn from its own row's probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2.0, size=(count, classes))
    weights = np.exp(logits)
    chances = (weights / weights.sum(axis=1, keepdims=True)).cumsum(axis=1)
    labels = (random.random((count, 1)) > chances).sum(axis=1).clip(max=classes - 1)
    return logits, labels


def test_the_numbers_of_five_photos() -> None:
    # Classes: two Acuras, a BMW, a Land Rover. Thresholds: model 0.6, make 0.7.
    probabilities = np.array(
        [
            [0.90, 0.05, 0.03, 0.02],  # right, by model
            [0.10, 0.05, 0.80, 0.05],  # wrong, by model
            [0.45, 0.40, 0.10, 0.05],  # wrong model, right make: by make
            [0.30, 0.30, 0.25, 0.15],  # unknown
            [0.05, 0.05, 0.20, 0.70],  # right, by model
        ]
    )
    labels = np.array([0, 3, 1, 2, 3])
    found = evaluate(np.log(probabilities), labels, _card())
    assert (found["images"], found["top1_count"], found["make_count"]) == (5, 2, 3)
    assert found["top1"] == pytest.approx(0.4)
    assert found["top5"] == 1.0
    assert found["decisions"]["model"] == {"images": 3, "coverage": 0.6, "precision": pytest.approx(2 / 3)}
    assert found["decisions"]["make"] == {"images": 1, "coverage": 0.2, "precision": 1.0}
    assert found["decisions"]["unknown"]["images"] == 1
    assert found["coverage"] == 0.6
    assert {(row["label"], row["predicted"]) for row in found["confusions"]} == {
        ("Land Rover LR2 SUV 2012", "BMW M3 Coupe 2012"),
        ("Acura TSX Sedan 2012", "Acura TL Sedan 2012"),
        ("BMW M3 Coupe 2012", "Acura TL Sedan 2012"),
    }
    by_class = {row["label"]: row for row in found["per_class"]}
    assert by_class["Land Rover LR2 SUV 2012"]["recall"] == 0.5
    assert by_class["Acura TL Sedan 2012"]["precision"] == pytest.approx(1 / 3)
    json.dumps(found, allow_nan=False)


def test_rejected_photos_are_unknown_and_counted_as_such() -> None:
    ood = {"score": "energy", "threshold": 5.0}
    card = _card(thresholds={"model": 0.6, "make": 0.7, "target_precision": 0.95, "ood": ood})
    logits = np.array([[9.0, 0, 0, 0], [9.0, 0, 0, 0], [3.0, -6, -6, -6], [0.0, 0, 0, 0]])
    found = evaluate(logits, np.zeros(4, dtype=np.int64), card)
    assert found["top1_count"] == 4
    assert found["decisions"]["model"]["images"] == 2
    assert found["decisions"]["unknown"] == {"images": 2, "coverage": 0.5, "rejected": 2}
    assert evaluate(logits, np.zeros(4, dtype=np.int64), _card())["decisions"]["unknown"]["rejected"] == 0


def test_top5_counts_the_five_best_only() -> None:
    classes = [f"Make{n} Car 2000" for n in range(7)]
    logits = np.tile(np.arange(7.0), (7, 1))
    assert evaluate(logits, np.arange(7), _card(classes=classes))["top5_count"] == 5


def test_top5_of_logits_whose_probabilities_are_all_nothing_but_one() -> None:
    classes = [f"Make{n} Car 2000" for n in range(9)]
    logits = np.tile(np.append(np.arange(8.0), 5000.0), (9, 1))
    assert evaluate(logits, np.arange(9), _card(classes=classes))["top5_count"] == 5


def test_temperature_scaling_finds_what_the_logits_were_multiplied_by() -> None:
    logits, labels = _sampled(20_000, 6)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits / 4, labels) == pytest.approx(0.25, rel=0.05)


@given(scale=st.floats(0.1, 10), seed=st.integers(0, 50))
def test_scaling_never_makes_the_likelihood_worse(scale: float, seed: int) -> None:
    logits, labels = _sampled(60, 4, seed=seed)
    temperature = fit_temperature(logits * scale, labels)
    scaled, plain = (negative_log_likelihood(logits * scale, labels, t) for t in (temperature, 1.0))
    assert scaled <= plain + 1e-6


def test_calibration_error_is_the_gap_between_claim_and_truth() -> None:
    confidence = np.full(100, 0.9)
    assert expected_calibration_error(confidence, np.arange(100) < 90) == pytest.approx(0)
    assert expected_calibration_error(confidence, np.arange(100) < 50) == pytest.approx(0.4)


def test_calibrated_confidences_stay_below_the_simulated_limit_and_others_do_not() -> None:
    below = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        confidence = random.uniform(0.3, 1, 700)
        limit = simulated_error_limit(confidence, rounds=400)
        below.append(expected_calibration_error(confidence, random.random(700) < confidence) < limit)
        assert expected_calibration_error(confidence, random.random(700) < confidence - 0.15) > limit
    assert sum(below) >= 34  # 95 % of 40, less what chance takes


def test_a_fitted_threshold_keeps_its_promise_on_other_photos() -> None:
    kept = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        confidence = random.beta(6, 1, 4000)
        hit = random.random(4000) < confidence
        threshold = fit_threshold(confidence[:800], hit[:800])
        chosen = confidence[800:] >= threshold
        assert chosen.any()
        kept.append(hit[800:][chosen].mean() >= 0.95)
    assert np.mean(kept) > 0.75


def test_no_threshold_where_none_keeps_the_promise() -> None:
    random = np.random.default_rng(0)
    assert fit_threshold(random.random(500), random.random(500) < 0.5) == NEVER
    assert fit_threshold(np.full(10, 0.99), np.ones(10, dtype=bool)) == NEVER  # ten photos prove nothing
    assert fit_threshold(np.array([]), np.array([], dtype=bool)) == NEVER


def test_equal_confidences_are_let_in_together() -> None:
    confidence = np.array([0.9] * 100 + [0.5] * 100)
    hit = np.array([True] * 100 + [True] * 50 + [False] * 50)
    assert fit_threshold(confidence, hit) == pytest.approx(0.7)


@given(right=st.integers(0, 500), wrong=st.integers(1, 500))
def test_the_lower_bound_is_below_the_observed_fraction(right: int, wrong: int) -> None:
    total = right + wrong
    bound = float(lower_bound(np.array([right]), np.array([total]))[0])
    assert -1e-9 <= bound <= right / total + 1e-9


def test_coverage_and_risk_of_a_ranking() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    hit = np.array([True, True, False, True])
    assert coverage_at(confidence, hit, 0.95) == 0.5
    assert coverage_at(confidence, hit, 0.75) == 1.0
    assert coverage_at(confidence, ~hit, 0.95) == 0.0
    assert area_under_risk_coverage(confidence, hit) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
