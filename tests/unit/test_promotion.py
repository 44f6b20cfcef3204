"""What becomes of a candidate, by the numbers."""

from __future__ import annotations

import pytest

from workers.training.promotion import HoldoutAccuracy, decide, guessing_chance


def accuracy(
    correct: int, images: int = 800, *, version: str = "v", most_frequent: float = 0.01, classes: int = 196
) -> HoldoutAccuracy:
    return HoldoutAccuracy(
        version=version, correct=correct, images=images, most_frequent=most_frequent, classes=classes
    )


@pytest.mark.parametrize(
    ("candidate", "production", "min_gain", "better"),
    [
        (601, 600, 0.0, True),
        (600, 600, 0.0, False),
        (599, 600, 0.0, False),
        (608, 600, 0.01, True),
        (607, 600, 0.01, False),
        (599, 600, -0.01, False),
    ],
)
def test_better_is_more_photos_right_by_the_gain(
    candidate: int, production: int, min_gain: float, better: bool
) -> None:
    decision = decide(accuracy(candidate), accuracy(production), min_gain=min_gain, force=False)
    assert (decision.better, decision.promotable) == (better, better)
    assert "points" in decision.reason


def test_force_overrules() -> None:
    decision = decide(accuracy(0), accuracy(600), min_gain=0.5, force=True)
    assert decision.better
    assert decision.promotable


@pytest.mark.parametrize("production", [accuracy(0), None, "v, which is in production, cannot be evaluated here"])
def test_what_guessing_reaches_is_never_better(production: HoldoutAccuracy | str | None) -> None:
    lucky = accuracy(6, most_frequent=0.005)  # four are to be expected
    decision = decide(lucky, production, min_gain=0.0, force=False)
    assert not decision.better
    assert "guessing" in decision.reason


def test_the_first_version_goes_live() -> None:
    assert decide(accuracy(600), None, min_gain=0.0, force=False).promotable


def test_without_a_comparison_nothing_goes_live_by_itself() -> None:
    decision = decide(accuracy(600, version="new"), "old cannot be evaluated here", min_gain=0.0, force=False)
    assert decision.better
    assert not decision.promotable
    assert "cars model promote new" in decision.reason


def test_a_version_that_would_lose_classes_is_left_to_the_user() -> None:
    lost = [f"Class {number}" for number in range(30)]
    mine = accuracy(700, version="new", classes=166)
    decision = decide(mine, accuracy(600), lost=lost, min_gain=0.0, force=False)
    assert (decision.better, decision.promotable) == (True, False)
    assert "30 of the 196 classes" in decision.reason
    assert "Class 0, Class 1" in decision.reason
    assert "Class 29" not in decision.reason
    assert "cars model promote new" in decision.reason
    assert decide(mine, accuracy(600), lost=lost, min_gain=0.0, force=True).promotable
    assert not decide(accuracy(500), accuracy(600), lost=lost, min_gain=0.0, force=False).better


def test_the_chance_of_guessing_is_a_binomial_tail() -> None:
    assert guessing_chance(accuracy(2, 2, most_frequent=0.5)) == pytest.approx(0.25)
    assert guessing_chance(accuracy(1, 2, most_frequent=0.5)) == pytest.approx(0.75)
    assert guessing_chance(accuracy(0, 2, most_frequent=0.5)) == pytest.approx(1.0)
