import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.cards import Card, Score, parse_card
from model.decision import decide_all, is_out_of_distribution, ood_scores, softmax
from tests.support.artifacts import card_fields


@pytest.fixture(name="card")
def _card() -> Card:
    # Two Acuras, a BMW, a Land Rover; thresholds 0.6 for the model, 0.7 for the make.
    return parse_card(json.dumps(card_fields()).encode())


@given(arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)), st.floats(0.05, 20))
def test_calibrated_probabilities_sum_to_one_and_keep_the_order(logits: np.ndarray, temperature: float) -> None:
    probabilities = softmax(logits, temperature=temperature)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == logits.shape
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities[np.arange(3), logits.argmax(axis=1)] == probabilities.max(axis=1)).all()


def test_the_temperature_divides_the_logits() -> None:
    assert softmax(np.array([[0.0, np.log(16)]]), temperature=2.0).tolist() == [
        [pytest.approx(0.2), pytest.approx(0.8)]
    ]


@pytest.mark.parametrize(
    ("probabilities", "decision", "make"),
    [
        ([0.6, 0.2, 0.1, 0.1], "model", "Acura"),
        ([0.59, 0.2, 0.11, 0.1], "make", "Acura"),
        ([0.4, 0.29, 0.2, 0.11], "unknown", "Acura"),
        ([0.1, 0.1, 0.2, 0.6], "model", "Land Rover"),
        ([0.25, 0.25, 0.3, 0.2], "unknown", "Acura"),
    ],
)
def test_the_model_is_said_where_it_is_sure_else_the_make(
    card: Card, probabilities: list[float], decision: str, make: str
) -> None:
    assert decide_all(np.array([probabilities]), card).decision == [decision]
    assert decide_all(np.array([probabilities]), card).make == [make]


def test_the_make_is_the_one_that_the_data_named() -> None:
    classes = ["Lynk Co 01", "Lynk Co 02", "GWM Ora 03"]
    parts = {
        "Lynk Co 01": {"make": "Lynk Co", "model": "01", "body": None, "year": None},
        "Lynk Co 02": {"make": "Lynk Co", "model": "02", "body": None, "year": None},
        "GWM Ora 03": {"make": "GWM Ora", "model": "03", "body": None, "year": None},
    }
    card = parse_card(json.dumps(card_fields(classes=classes, class_parts=parts)).encode())
    found = decide_all(np.array([[0.4, 0.35, 0.25], [0.1, 0.1, 0.8]]), card)
    assert (found.decision, found.make) == (["make", "model"], ["Lynk Co", "GWM Ora"])


def test_many_at_once_agree_with_one_at_a_time(card: Card) -> None:
    probabilities = np.random.default_rng(0).dirichlet([0.3] * 4, size=200).astype(np.float32)
    found = decide_all(probabilities, card)
    assert found.decision == [decide_all(row[None], card).decision[0] for row in probabilities]
    assert set(found.decision) == {"model", "make", "unknown"}
    assert (found.confidence == probabilities.max(axis=1)).all()
    assert (found.top == probabilities.argmax(axis=1)).all()
    assert (found.make_confidence >= found.confidence).all()
    assert found.make_confidence.max() <= 1


def test_no_images_give_no_decisions(card: Card) -> None:
    assert decide_all(np.empty((0, 4), dtype=np.float32), card).decision == []


def test_a_threshold_above_one_is_never_reached(card: Card) -> None:
    never = card.model_copy(update={"thresholds": card.thresholds.model_copy(update={"model": 1.5, "make": 1.5})})
    assert decide_all(np.array([[1.0, 0, 0, 0]]), never).decision == ["unknown"]


def _rejecting(score: Score, least: float) -> Card:
    thresholds = {**card_fields()["thresholds"], "ood": {"score": score, "threshold": least}}
    return parse_card(json.dumps(card_fields(thresholds=thresholds)).encode())


def test_the_scores_of_known_cars() -> None:
    logits = np.random.default_rng(0).normal(scale=3, size=(50, 4)).astype(np.float32)
    found = ood_scores(logits, 1.5)
    assert found["max_softmax"] == pytest.approx(softmax(logits, temperature=1.5).max(axis=1))
    assert found["max_logit"].tolist() == logits.max(axis=1).tolist()
    assert found["energy"] == pytest.approx(np.log(np.exp(logits.astype(np.float64)).sum(axis=1)))
    assert np.isfinite(ood_scores(np.array([[1e4, -1e4], [-1e4, -1e4]]), 0.05)["energy"]).all()


# Sure of the first class both times: only how large the logits are tells a car of the classes from something else.
_KNOWN, _STRANGE = [20.0, 0.0, 0.0, 0.0], [4.0, -16.0, -16.0, -16.0]


@pytest.mark.parametrize("score", ["max_logit", "energy"])
def test_what_looks_like_no_known_car_is_unknown_however_sure_the_network_is(score: Score) -> None:
    card, logits = _rejecting(score, 10.0), np.array([_KNOWN, _STRANGE], dtype=np.float32)
    found = decide_all(softmax(logits, temperature=card.temperature), card, logits)
    assert found.confidence.min() > 0.99
    assert found.decision == ["model", "unknown"]
    assert found.out_of_distribution.tolist() == [False, True]


def test_the_softmax_is_that_of_the_temperature() -> None:
    card, logits = _rejecting("max_softmax", 0.95), np.array([[4.0, 0.0, 0.0, 0.0], [6.0, 0.0, 0.0, 0.0]])
    # Without the temperature of 1.5 it would be 0.948 and 0.993, with it 0.828 and 0.948.
    assert is_out_of_distribution(logits, card).tolist() == [True, True]
    assert is_out_of_distribution(logits * 1.5, card).tolist() == [True, False]


def test_a_score_that_reaches_the_limit_passes() -> None:
    logits = np.array([[7.5, 0.0, 0.0, 0.0]])
    assert not is_out_of_distribution(logits, _rejecting("max_logit", 7.5)).any()
    assert is_out_of_distribution(logits, _rejecting("max_logit", np.nextafter(7.5, 8))).all()


def test_nothing_is_rejected_without_logits_or_by_a_card_without_a_limit(card: Card) -> None:
    logits = np.array([_STRANGE])
    probabilities = softmax(logits, temperature=card.temperature)
    for found in (decide_all(probabilities, _rejecting("energy", 10.0)), decide_all(probabilities, card, logits)):
        assert found.decision == ["model"]
        assert not found.out_of_distribution.any()


@pytest.mark.parametrize("score", ["max_softmax", "max_logit", "energy"])
def test_what_is_not_a_number_is_unknown(score: Score) -> None:
    card, logits = _rejecting(score, -1e9), np.array([[np.nan, 1.0, 2.0, 3.0], _KNOWN])
    found = decide_all(softmax(logits, temperature=card.temperature), card, logits)
    assert found.decision == ["unknown", "model"]
    assert found.out_of_distribution.tolist() == [True, False]
