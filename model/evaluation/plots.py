"""The figures of a version: drawn from its numbers alone, never from images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from model.cards import Card
from model.decision import softmax
from model.evaluation.calibration import ECE_BINS
from model.evaluation.results import ClassResult, Confusion, RiskPoint
from model.figures import BLUE, RED, save_figure

__all__ = ["draw"]

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


def draw(folder: Path, card: Card, logits: Floats, labels: Labels) -> list[Path]:
    """Write reliability, risk-coverage, per-class and confusion plots as PNG into `folder`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    probabilities = softmax(logits, temperature=card.temperature)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    metrics = card.metrics.model_dump()
    return [
        save_figure(folder / "reliability.png", lambda axes: _reliability(axes, confidence, hit)),
        save_figure(folder / "risk_coverage.png", lambda axes: _risk_coverage(axes, metrics["risk_coverage"], card)),
        save_figure(folder / "per_class.png", lambda axes: _per_class(axes, metrics["per_class"])),
        save_figure(folder / "confusions.png", lambda axes: _confusions(axes, metrics["confusions"])),
    ]


def _reliability(axes: Axes, confidence: Floats, hit: npt.NDArray[np.bool_]) -> None:
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    used = np.unique(bins)
    accuracy = [hit[bins == b].mean() for b in used]
    axes.bar((used + 0.5) / ECE_BINS, accuracy, width=0.9 / ECE_BINS, color=BLUE, label="fraction that is right")
    axes.plot([0, 1], [0, 1], color=RED, linestyle="--", label="perfect calibration")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)


def _risk_coverage(axes: Axes, curve: Sequence[RiskPoint], card: Card) -> None:
    axes.plot([point["coverage"] for point in curve], [point["risk"] for point in curve], color=BLUE)
    axes.axhline(1 - card.thresholds.target_precision, color=RED, linestyle="--", label="promised risk")
    axes.set(
        xlabel="fraction of images answered, most confident first",
        ylabel="fraction of answers that are wrong",
        xlim=(0, 1),
    )
    axes.legend(frameon=False)


def _per_class(axes: Axes, table: Sequence[ClassResult]) -> None:
    recalls = sorted(row["recall"] for row in table if row["recall"] is not None)
    axes.plot(np.linspace(0, 1, len(recalls)), recalls, color=BLUE, drawstyle="steps-mid")
    axes.set(xlabel="fraction of classes, worst first", ylabel="recall on holdout", xlim=(0, 1), ylim=(0, 1))


def _confusions(axes: Axes, pairs: Sequence[Confusion]) -> None:
    shown = list(pairs[:12])[::-1]
    axes.barh(
        [f"{pair['label']} taken for {pair['predicted']}" for pair in shown],
        [pair["count"] for pair in shown],
        color=BLUE,
    )
    axes.tick_params(axis="y", labelsize=7)
    axes.set(xlabel="images")
