"""From logits to what may be said: probabilities, out-of-distribution images, the decision."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.cards import CardDraft, Score

__all__ = [
    "Decision",
    "Decisions",
    "decide_all",
    "is_out_of_distribution",
    "make_table",
    "may_be_model",
    "model_thresholds",
    "ood_scores",
    "softmax",
]

Decision = Literal["model", "make", "unknown"]


@dataclass(frozen=True, slots=True)
class Decisions:
    """What is said of N images, one element each.

    `top` is the index of the best class and `confidence` its probability. `make` is the make with the largest summed
    probability and `make_confidence` that sum: where the decision is `make`, it may differ from the best class's make,
    and it is the one to show. `out_of_distribution` images are `unknown` because they show no car of the classes.
    """

    decision: list[Decision]
    top: NDArray[np.intp]
    confidence: NDArray[np.float32]
    make: list[str]
    make_confidence: NDArray[np.float32]
    out_of_distribution: NDArray[np.bool_]


def softmax(logits: NDArray[np.floating], *, temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the probabilities of logits over the temperature, along the last axis: float32, same shape.

    Temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled.astype(np.float32)


def ood_scores(logits: NDArray[np.floating], temperature: float) -> dict[Score, NDArray[np.float64]]:
    """Return scores (N,) of raw logits (N, C), each higher the more an image looks like one of the classes.

    Maximum softmax probability, after division by `temperature`: Hendrycks and Gimpel, ICLR 2017. Maximum logit:
    Hendrycks et al., ICML 2022. Energy, here log-sum-exp: Liu et al., NeurIPS 2020. Centered logit: the maximum less
    the mean of the logits, since training by probabilities alone leaves open by how much all logits are shifted. Logit
    margin: the maximum less the mean of the next nine.
    """
    raw = np.asarray(logits, dtype=np.float64)
    largest = raw.max(axis=1)
    below = raw - largest[:, None]
    return {
        "max_softmax": 1 / np.exp(below / temperature).sum(axis=1),
        "max_logit": largest,
        "energy": largest + np.log(np.exp(below).sum(axis=1)),
        "centered_logit": largest - raw.mean(axis=1),
        "logit_margin": largest - _next_mean(raw),
    }


def _next_mean(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the second to tenth largest logits of each row, of fewer where there are fewer classes."""
    count = min(10, raw.shape[1])
    largest = np.partition(raw, raw.shape[1] - count, axis=1)[:, -count:]
    return np.asarray((largest.sum(axis=1) - largest.max(axis=1)) / max(1, count - 1))


def is_out_of_distribution(logits: NDArray[np.floating], card: CardDraft) -> NDArray[np.bool_]:
    """Return for each row of raw logits (N, C) whether the card's score lies below its threshold, or is not a number.

    False throughout where the card has no such threshold.
    """
    ood = card.thresholds.ood
    if ood is None:
        return np.zeros(len(logits), dtype=np.bool_)
    return np.asarray(~(ood_scores(logits, card.temperature)[ood.score] >= ood.threshold))


def make_table(card: CardDraft) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Return the makes in order of first appearance, and for each of the card's classes (C,) the index of its make."""
    return _indexed(tuple(label.make for label in card.labels))


@lru_cache(maxsize=16)
def _indexed(makes: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    names = tuple(dict.fromkeys(makes))
    position = {name: index for index, name in enumerate(names)}
    index = np.array([position[make] for make in makes], dtype=np.intp)
    index.setflags(write=False)
    return names, index


def may_be_model(logits: NDArray[np.floating], card: CardDraft) -> NDArray[np.bool_]:
    """Return for each row of raw logits (N, C) whether it looks enough like one of the classes for `model`."""
    ood = card.thresholds.ood_for_model
    if ood is None:
        return np.ones(len(logits), dtype=np.bool_)
    return np.asarray(ood_scores(logits, card.temperature)[ood.score] >= ood.threshold)


def model_thresholds(card: CardDraft) -> NDArray[np.float64]:
    """Return for each class (C,) the probability that the decision `model` needs."""
    thresholds = np.full(len(card.classes), card.thresholds.model)
    if card.thresholds.confusable is not None:
        position = {name: index for index, name in enumerate(card.classes)}
        inside = [position[name] for pair in card.thresholds.confusable.pairs for name in pair]
        thresholds[inside] = card.thresholds.confusable.model
    return thresholds


def decide_all(
    probabilities: NDArray[np.floating], card: CardDraft, logits: NDArray[np.floating] | None = None
) -> Decisions:
    """Return the decisions for calibrated probabilities (N, C) and the raw logits (N, C) that they come from.

    `unknown` if the logits are out of distribution; else `model` if the best class reaches its threshold in the card
    and the logits look enough like one of the classes for that, else `make` if the best make's summed probability
    reaches the make threshold, else `unknown`. Without `logits` nothing is out of distribution, and the probabilities
    alone decide. Not a number reaches no threshold.
    """
    probabilities = np.asarray(probabilities, dtype=np.float32)
    none = np.zeros(len(probabilities), dtype=np.bool_)
    ood = none if logits is None else is_out_of_distribution(logits, card)
    names, index = make_table(card)
    by_make = np.zeros((len(probabilities), len(names)), dtype=np.float32)
    np.add.at(by_make.T, index, probabilities.T)
    top, best = probabilities.argmax(axis=1), by_make.argmax(axis=1)
    rows = np.arange(len(probabilities))
    confidence, make_confidence = probabilities[rows, top], by_make[rows, best].clip(max=1.0)
    sure = ~ood & (confidence >= model_thresholds(card)[top])
    if logits is not None:
        sure &= may_be_model(logits, card)
    sure_make = ~ood & (make_confidence >= card.thresholds.make)
    decision: list[Decision] = [
        "model" if of_model else "make" if of_make else "unknown"
        for of_model, of_make in zip(sure.tolist(), sure_make.tolist(), strict=True)
    ]
    make = [names[i] for i in best.tolist()]
    return Decisions(decision, top, confidence, make, make_confidence, ood)
