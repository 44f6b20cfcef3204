"""From logits to what may be said: calibration, rejection, the decision, pooling."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.cards import Card, Score

__all__ = [
    "Decision",
    "Decisions",
    "calibrate",
    "decide",
    "decide_all",
    "known_scores",
    "looks_unknown",
    "make_table",
    "may_be_model",
    "model_thresholds",
    "pool",
]

Decision = Literal["model", "make", "unknown"]
_LEAST_PROBABILITY = 1e-7


@dataclass(frozen=True, slots=True)
class Decisions:
    """What is said of N images, one element each.

    `top` is the index of the best class and `confidence` its probability. `make` is the make with the largest summed
    probability and `make_confidence` that sum: where the decision is `make`, it may differ from the best class's make,
    and it is the one to show. `rejected` images are `unknown` because they look like no known car.
    """

    decision: list[Decision]
    top: NDArray[np.intp]
    confidence: NDArray[np.float32]
    make: list[str]
    make_confidence: NDArray[np.float32]
    rejected: NDArray[np.bool_]


def calibrate(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """softmax(logits / temperature) over the last axis, float32, same shape.

    Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled.astype(np.float32)


def known_scores(logits: NDArray[np.floating], temperature: float) -> dict[Score, NDArray[np.float64]]:
    """Scores (N,) of raw logits (N, C), each higher the more a photo looks like a known car.

    Maximum softmax probability, after division by `temperature`: Hendrycks and Gimpel, ICLR 2017. Maximum logit:
    Hendrycks et al., ICML 2022. Energy, here log-sum-exp: Liu et al., NeurIPS 2020. Centered logit: the maximum less
    the mean of the logits, since training by probabilities alone leaves open by how much all logits are shifted. Logit
    margin: the maximum less the mean of the next nine.
    """
    raw = np.asarray(logits, dtype=np.float64)
    peak = raw.max(axis=1)
    below = raw - peak[:, None]
    return {
        "max_softmax": 1 / np.exp(below / temperature).sum(axis=1),
        "max_logit": peak,
        "energy": peak + np.log(np.exp(below).sum(axis=1)),
        "centered_logit": peak - raw.mean(axis=1),
        "logit_margin": peak - _next_mean(raw),
    }


def _next_mean(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the second to tenth largest logits of each row, of fewer where there are fewer classes."""
    count = min(10, raw.shape[1])
    largest = np.partition(raw, raw.shape[1] - count, axis=1)[:, -count:]
    return np.asarray((largest.sum(axis=1) - largest.max(axis=1)) / max(1, count - 1))


def looks_unknown(logits: NDArray[np.floating], card: Card) -> NDArray[np.bool_]:
    """For each row of raw logits (N, C): does the card's score lie below its least value, or is it no number?

    False throughout where the card has no such score.
    """
    known = card.thresholds.known
    if known is None:
        return np.zeros(len(logits), dtype=np.bool_)
    return np.asarray(~(known_scores(logits, card.temperature)[known.score] >= known.least))


def make_table(card: Card) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """The makes in order of first appearance, and for each of the card's classes (C,) the index of its make."""
    return _indexed(tuple(label.make for label in card.labels))


@lru_cache(maxsize=16)
def _indexed(makes: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    names = tuple(dict.fromkeys(makes))
    position = {name: index for index, name in enumerate(names)}
    index = np.array([position[make] for make in makes], dtype=np.intp)
    index.setflags(write=False)
    return names, index


def may_be_model(logits: NDArray[np.floating], card: Card) -> NDArray[np.bool_]:
    """For each row of raw logits (N, C): does it look enough like a known car to be decided `model`?"""
    known = card.thresholds.known_for_model
    if known is None:
        return np.ones(len(logits), dtype=np.bool_)
    return np.asarray(known_scores(logits, card.temperature)[known.score] >= known.least)


def model_thresholds(card: Card) -> NDArray[np.float64]:
    """For each class (C,) the least probability for the decision `model`."""
    least = np.full(len(card.classes), card.thresholds.model)
    if card.thresholds.confusable is not None:
        position = {name: index for index, name in enumerate(card.classes)}
        inside = [position[name] for pair in card.thresholds.confusable.pairs for name in pair]
        least[inside] = card.thresholds.confusable.model
    return least


def decide_all(
    probabilities: NDArray[np.floating], card: Card, logits: NDArray[np.floating] | None = None
) -> Decisions:
    """The decisions for calibrated probabilities (N, C) and the raw logits (N, C) that they come from.

    `unknown` if the logits look like no known car; else `model` if the best class reaches its threshold in the card and
    the logits look enough like a known car for that, else `make` if the best make's summed probability reaches the make
    threshold, else `unknown`. Without `logits` nothing is rejected, and the probabilities alone decide. Not a number
    reaches no threshold.
    """
    probabilities = np.asarray(probabilities, dtype=np.float32)
    rejected = np.zeros(len(probabilities), dtype=np.bool_) if logits is None else looks_unknown(logits, card)
    names, index = make_table(card)
    by_make = np.zeros((len(probabilities), len(names)), dtype=np.float32)
    np.add.at(by_make.T, index, probabilities.T)
    top, best = probabilities.argmax(axis=1), by_make.argmax(axis=1)
    rows = np.arange(len(probabilities))
    confidence, make_confidence = probabilities[rows, top], by_make[rows, best].clip(max=1.0)
    sure = ~rejected & (confidence >= model_thresholds(card)[top])
    if logits is not None:
        sure &= may_be_model(logits, card)
    sure_make = ~rejected & (make_confidence >= card.thresholds.make)
    decision: list[Decision] = [
        "model" if of_model else "make" if of_make else "unknown"
        for of_model, of_make in zip(sure.tolist(), sure_make.tolist(), strict=True)
    ]
    make = [names[i] for i in best.tolist()]
    return Decisions(decision, top, confidence, make, make_confidence, rejected)


def decide(probabilities: NDArray[np.floating], card: Card) -> Decision:
    """The decision for one image's calibrated probabilities (C,), which alone decide: nothing is rejected."""
    return decide_all(np.asarray(probabilities)[None], card).decision[0]


def pool(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """One distribution (C,) for K images of the same car, from their calibrated probabilities (K, C).

    The normalised geometric mean, which is the mean of the logits: one sure photo outweighs several vague ones,
    and one photo of something else cannot decide alone. K must be at least 1.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _LEAST_PROBABILITY))
    return calibrate(logs.mean(axis=0), 1.0)
