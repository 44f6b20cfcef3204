import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.cards import Card, parse_card
from model.decision import Decision, decide_all, softmax
from model.verdicts import DEFAULT_RULE, ListingPart, Pooling, Verdict, verdict
from tests.support.artifacts import card_fields

CARD = parse_card(json.dumps(card_fields()).encode())  # two Acuras, a BMW, a Land Rover; model 0.6, make 0.7
ACURA, BMW = [0.97, 0.01, 0.01, 0.01], [0.01, 0.01, 0.97, 0.01]


def photos(*rows: list[float], decisions: list[Decision] | None = None, first: int = 0) -> ListingPart:
    """ListingPart with these probabilities, decided as they would be unless it is said how."""
    probabilities = np.array(rows, dtype=np.float16)
    said = decisions or decide_all(probabilities.astype(np.float32), CARD).decision
    return ListingPart(range(first, first + len(rows)), probabilities, said)


def of(*rows: list[float], card: Card = CARD) -> Verdict:
    return verdict([photos(*rows)], card)


@given(arrays(np.float32, 4, elements=st.floats(-5, 5, width=32)))
def test_one_photo_alone_keeps_its_probabilities_and_its_decision(logits: np.ndarray) -> None:
    alone = photos(softmax(logits).tolist())
    found = verdict([alone], CARD)
    if found.probabilities is not None:
        assert np.allclose(found.probabilities, alone.probabilities[0].astype(np.float32), atol=2e-3)
        assert found.top == int(found.probabilities.argmax())
        assert not found.conflict


def test_the_pooled_probabilities_are_those_of_the_formula() -> None:
    rows = [[0.5, 0.3, 0.1, 0.1], [0.4, 0.2, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1]]
    stored = np.array(rows, dtype=np.float16).astype(np.float64)
    w = [1 + sum(p * math.log(p) for p in row) / math.log(4) for row in stored.tolist()]
    k = sum(w)
    logs = [max(1, k) ** 0.4 * sum(w[i] * math.log(stored[i, c]) for i in range(3)) / k for c in range(4)]
    expected = [math.exp(x) / sum(map(math.exp, logs)) for x in logs]
    found = of(*rows)
    assert found.probabilities is not None
    assert found.probabilities.tolist() == pytest.approx(expected, abs=1e-4)


def test_photos_of_two_makes_are_in_conflict_and_unknown() -> None:
    found = of(ACURA, ACURA, BMW, BMW)
    assert found.conflict
    assert found.decision == "unknown"
    assert not of(ACURA, ACURA, ACURA).conflict
    assert of(ACURA, ACURA, ACURA).decision == "model"


def test_the_conflict_is_that_of_the_formula() -> None:
    stored = np.array([ACURA, BMW, ACURA], dtype=np.float16).astype(np.float64)
    w = [1 + sum(p * math.log(p) for p in row) / math.log(4) for row in stored.tolist()]
    q = [[row[0] + row[1], row[2], row[3]] for row in stored.tolist()]
    single = [sum(w[i] * math.log(q[i][m]) for i in range(3)) for m in range(3)]
    pairs = [sum(w[i] * math.log(max(q[i][m], q[i][n])) for i in range(3)) for m in range(3) for n in range(3)]
    j = max(1, sum(w))
    assert Pooling(CARD).evidence([photos(ACURA, BMW, ACURA)]).conflict(0.4) == pytest.approx(
        (max(pairs) - max(single)) / j**0.6, rel=1e-6
    )


def test_two_models_of_one_make_do_not_conflict() -> None:
    found = of([0.97, 0.01, 0.01, 0.01], [0.01, 0.97, 0.01, 0.01])
    assert not found.conflict
    assert (found.decision, found.make) == ("make", "Acura")
    assert found.confidence > 0.9


def test_a_sure_photo_outweighs_vague_ones() -> None:
    found = of(ACURA, [0.2, 0.2, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25])
    assert (found.decision, found.top, found.image) == ("model", 0, 0)
    assert found.used == 1
    assert found.agreement is not None
    assert found.agreement > 0.95


def test_a_rejected_photo_says_nothing() -> None:
    assert Pooling(CARD).weights(np.array([ACURA]), ["unknown"]).tolist() == [0]
    vague = [0.4, 0.29, 0.2, 0.11]
    assert Pooling(CARD).weights(np.array([vague]), ["unknown"])[0] > 0  # it reaches no threshold: it is only unsure
    nothing = verdict([photos(ACURA, BMW, decisions=["unknown", "unknown"])], CARD)
    assert (nothing.decision, nothing.top, nothing.image, nothing.confidence) == ("unknown", None, None, 0.0)
    assert verdict([], CARD) == nothing


def test_photos_of_which_none_may_be_model_are_not_either() -> None:
    assert verdict([photos(ACURA, ACURA, decisions=["make", "make"])], CARD).decision == "make"
    assert verdict([photos(ACURA, ACURA, decisions=["make", "model"])], CARD).decision == "model"
    unsure = [0.65, 0.0, 0.35, 0.0]
    assert verdict([photos(unsure, decisions=["make"])], CARD).decision == "unknown"  # its make is not sure at all


def test_the_photo_is_the_one_most_probable_for_the_label() -> None:
    assert of([0.6, 0.2, 0.1, 0.1], ACURA, [0.7, 0.1, 0.1, 0.1]).image == 1


def test_parts_of_a_listing_add_up() -> None:
    rows = [ACURA, [0.4, 0.29, 0.2, 0.11], BMW, [0.7, 0.1, 0.1, 0.1]]
    whole = of(*rows)
    nothing = ListingPart([], np.zeros((0, 4)), [])
    parts = verdict([photos(*rows[:1]), photos(*rows[1:3], first=1), nothing, photos(rows[3], first=3)], CARD)
    assert whole.probabilities is not None
    assert parts.probabilities is not None
    assert np.allclose(whole.probabilities, parts.probabilities)
    assert (whole.decision, whole.image, whole.used) == (parts.decision, parts.image, parts.used)


def test_the_rule_is_the_cards() -> None:
    thresholds = {**card_fields()["thresholds"], "listing": {"exponent": 0.0, "conflict": 900.0}}
    card = parse_card(json.dumps(card_fields(thresholds=thresholds)).encode())
    assert not of(ACURA, ACURA, BMW, BMW, card=card).conflict
    pooled = of(ACURA, ACURA, card=card).probabilities
    assert pooled is not None
    assert pooled.max() == pytest.approx(0.97, abs=1e-3)  # the plain geometric mean
    assert DEFAULT_RULE.exponent == 0.4
    assert DEFAULT_RULE.conflict == 3.0


def test_a_card_without_a_rule_is_written_without_one() -> None:
    assert b"listing" not in CARD.to_bytes()
    thresholds = {**card_fields()["thresholds"], "listing": {"exponent": 0.5, "conflict": 2.0}}
    card = parse_card(json.dumps(card_fields(thresholds=thresholds)).encode())
    assert parse_card(card.to_bytes()).thresholds.listing == card.thresholds.listing
