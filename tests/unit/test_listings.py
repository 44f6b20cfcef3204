"""Listings made of labelled photos: the fit of the rule, and what is said of verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from model.cards import Card, parse_card
from model.evaluation import listings
from model.evaluation.listings import evaluate_listings, fit_listing_rule, second_shots
from tests.support.artifacts import card_fields
from tests.support.labelled_photos import picture

CLASSES = [f"{make} Model{n} Sedan 2012" for make in ("Acura", "BMW", "Ford") for n in range(10)]
SETS = 120
Array = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def few_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "MIXES", 100)
    monkeypatch.setattr(listings, "WITH_SAMPLES", 100)


@pytest.fixture(name="card")
def _card() -> Card:
    return parse_card(json.dumps(card_fields(classes=CLASSES, temperature=1.0)).encode())


def drawn(same: bool, *, noise: float = 4.0) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Logits of first and second shots, whose errors are the `same` or independent, and labels."""
    labels = np.repeat(np.arange(len(CLASSES)), 2 * SETS // len(CLASSES))
    random = np.random.default_rng(0)
    first, second = (
        (9.0 * np.eye(len(CLASSES))[labels] + random.normal(scale=noise, size=(len(labels), len(CLASSES)))).astype("f4")
        for _ in range(2)
    )
    return first, first if same else second, labels


def test_shots_that_say_the_same_make_the_rule_more_modest(card: Card) -> None:
    independent, repeated = (fit_listing_rule(card, *drawn(same)) for same in (False, True))
    assert independent is not None
    assert repeated is not None
    assert repeated.exponent < independent.exponent


def test_two_of_a_hundred_sets_conflict(card: Card) -> None:
    first, second, labels = drawn(same=False)
    rule = fit_listing_rule(card, first, second, labels)
    assert rule is not None
    found = evaluate_listings(card.with_thresholds(listing=rule), first, second, labels, samples=None)
    counted = sum(row["sets"] for row in found["sets"])
    assert sum(row["conflict"] * row["sets"] for row in found["sets"]) / counted == pytest.approx(0.02, abs=0.005)


def test_too_few_photos_fit_nothing(card: Card) -> None:
    first, second, labels = drawn(same=False)
    assert fit_listing_rule(card, first[:198], second[:198], labels[:198]) is None


def test_what_is_said_of_verdicts(card: Card) -> None:
    first, second, labels = drawn(same=False, noise=2.0)
    samples = np.random.default_rng(1).normal(scale=0.1, size=(6, len(CLASSES))).astype(np.float32)
    found = evaluate_listings(card, first, second, labels, samples=samples)
    assert (found["exponent"], found["conflict"], found["fitted"]) == (0.4, 3.0, False)
    assert [(row["images"], row["second_shots"]) for row in found["sets"]] == [
        (photos, second) for second in (False, True) for photos in (2, 3, 4)
    ]
    two, _, four = found["sets"][:3]
    assert two["sets"] == SETS
    assert four["top1"] >= two["top1"] > 0.9
    assert found["two_makes"] is not None
    assert found["two_makes"]["conflict"] > 0.5
    assert found["samples_alone"] is not None
    assert found["samples_alone"]["model"] == 0
    assert found == evaluate_listings(card, first, second, labels, samples=samples)  # all is seeded


def test_classes_of_one_make_mix_nothing(card: Card) -> None:
    first, second, labels = drawn(same=False)
    of_one = labels < 10
    found = evaluate_listings(card, first[of_one], second[of_one], labels[of_one], samples=None)
    assert found["two_makes"] is None
    assert found["with_samples"] is None


def test_a_second_shot_is_another_picture_of_the_same(tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for n, file in enumerate(files):
        picture("BMW M3 Coupe 2012", n).save(file)
    (shots,) = second_shots(files, 48)
    (again,) = second_shots(files, 48)
    assert shots.shape == (3, 48, 48, 3)
    assert (shots == again).all()
    (others,) = second_shots(files, 48, seed=1)
    assert (shots != others).any()
