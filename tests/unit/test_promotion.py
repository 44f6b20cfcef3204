"""What becomes of a candidate, by the numbers."""

from __future__ import annotations

import pytest

from workers.training.promotion import Judged, compare, guessing_chance


def judged(
    right: int, images: int = 800, *, version: str = "v", most_frequent: float = 0.01, classes: int = 196
) -> Judged:
    return Judged(version=version, top1=right / images, images=images, most_frequent=most_frequent, classes=classes)


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
    verdict = compare(judged(candidate), judged(production), min_gain=min_gain, force=False)
    assert (verdict.better, verdict.promotable) == (better, better)
    assert "points" in verdict.reason


def test_force_overrules() -> None:
    verdict = compare(judged(0), judged(600), min_gain=0.5, force=True)
    assert verdict.better
    assert verdict.promotable


@pytest.mark.parametrize("production", [judged(0), None, "v, which is in production, cannot be judged here"])
def test_what_guessing_reaches_is_never_better(production: Judged | str | None) -> None:
    lucky = judged(6, most_frequent=0.005)  # four are to be expected
    verdict = compare(lucky, production, min_gain=0.0, force=False)
    assert not verdict.better
    assert "guessing" in verdict.reason


def test_the_first_version_goes_live() -> None:
    assert compare(judged(600), None, min_gain=0.0, force=False).promotable


def test_without_a_comparison_nothing_goes_live_by_itself() -> None:
    verdict = compare(judged(600, version="new"), "old cannot be judged here", min_gain=0.0, force=False)
    assert verdict.better
    assert not verdict.promotable
    assert "cars model promote new" in verdict.reason


def test_a_version_that_would_lose_classes_is_left_to_the_user() -> None:
    lost = [f"Class {number}" for number in range(30)]
    mine = judged(700, version="new", classes=166)
    verdict = compare(mine, judged(600), lost=lost, min_gain=0.0, force=False)
    assert (verdict.better, verdict.promotable) == (True, False)
    assert "30 of the 196 classes" in verdict.reason
    assert "Class 0, Class 1" in verdict.reason
    assert "Class 29" not in verdict.reason
    assert "cars model promote new" in verdict.reason
    assert compare(mine, judged(600), lost=lost, min_gain=0.0, force=True).promotable
    assert not compare(judged(500), judged(600), lost=lost, min_gain=0.0, force=False).better


def test_the_chance_of_guessing_is_a_binomial_tail() -> None:
    assert guessing_chance(judged(2, 2, most_frequent=0.5)) == pytest.approx(0.25)
    assert guessing_chance(judged(1, 2, most_frequent=0.5)) == pytest.approx(0.75)
    assert guessing_chance(judged(0, 2, most_frequent=0.5)) == pytest.approx(1.0)
