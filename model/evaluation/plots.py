"""The pictures of a version: drawn from its numbers alone, never from photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.cards import Card
from model.decision import calibrate
from model.evaluation.calibration import ECE_BINS

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

_BLUE, _RED, _GRAY = "#2962a8", "#b3382c", "#8a8a8a"


def draw(folder: Path, card: Card, logits: Floats, labels: Labels) -> list[Path]:
    """Writes reliability, risk-coverage, per-class and confusion plots as PNG into ``folder``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    probabilities = calibrate(logits, card.temperature)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    metrics = card.metrics.model_dump()
    return [
        _save(folder / "reliability.png", lambda axes: _reliability(axes, confidence, hit)),
        _save(folder / "risk_coverage.png", lambda axes: _risk_coverage(axes, metrics["risk_coverage"], card)),
        _save(folder / "per_class.png", lambda axes: _per_class(axes, metrics["per_class"])),
        _save(folder / "confusions.png", lambda axes: _confusions(axes, metrics["confusions"])),
    ]


def draw_history(file: Path, epochs: Sequence[dict[str, Any]]) -> Path:
    """Losses and accuracy by epoch; ``epochs`` are the records a training run reports."""

    def curves(axes: Axes) -> None:
        numbers = [record["epoch"] for record in epochs]
        axes.plot(numbers, [record["train_loss"] for record in epochs], color=_BLUE, label="training loss")
        axes.plot(numbers, [record["valid_loss"] for record in epochs], color=_GRAY, label="calibration loss")
        axes.set(xlabel="epoch", ylabel="loss")
        right = axes.twinx()
        right.plot(numbers, [record["accuracy"] for record in epochs], color=_RED, label="calibration accuracy")
        right.set(ylabel="accuracy", ylim=(0, 1))
        lines = [*axes.get_lines(), *right.get_lines()]
        axes.legend(lines, [str(line.get_label()) for line in lines], frameon=False)

    return _save(file, curves)


def draw_rates(file: Path, rates: Sequence[float], losses: Sequence[float], chosen: float) -> Path:
    """The learning-rate finder's curve and the rate that was taken."""

    def curve(axes: Axes) -> None:
        axes.plot(rates, losses, color=_BLUE)
        axes.axvline(chosen, color=_RED, linestyle="--", label=f"taken: {chosen:.1e}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        axes.legend(frameon=False)

    return _save(file, curve)


def _save(file: Path, paint: Any) -> Path:
    """Draws on a figure of its own: no global state of pyplot, and no display needed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    paint(figure.subplots())
    figure.savefig(file, dpi=100, metadata={"Software": None})
    return file


def _reliability(axes: Axes, confidence: Floats, hit: npt.NDArray[np.bool_]) -> None:
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    used = np.unique(bins)
    accuracy = [hit[bins == b].mean() for b in used]
    axes.bar((used + 0.5) / ECE_BINS, accuracy, width=0.9 / ECE_BINS, color=_BLUE, label="share that is right")
    axes.plot([0, 1], [0, 1], color=_RED, linestyle="--", label="perfect calibration")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)


def _risk_coverage(axes: Axes, curve: Sequence[dict[str, float]], card: Card) -> None:
    axes.plot([point["coverage"] for point in curve], [point["risk"] for point in curve], color=_BLUE)
    axes.axhline(1 - card.thresholds.target_precision, color=_RED, linestyle="--", label="promised risk")
    axes.set(
        xlabel="share of photos answered, most confident first", ylabel="share of answers that are wrong", xlim=(0, 1)
    )
    axes.legend(frameon=False)


def _per_class(axes: Axes, table: Sequence[dict[str, Any]]) -> None:
    recalls = sorted(row["recall"] for row in table if row["recall"] is not None)
    axes.plot(np.linspace(0, 1, len(recalls)), recalls, color=_BLUE, drawstyle="steps-mid")
    axes.set(xlabel="share of classes, worst first", ylabel="recall on holdout", xlim=(0, 1), ylim=(0, 1))


def _confusions(axes: Axes, pairs: Sequence[dict[str, Any]]) -> None:
    shown = list(pairs[:12])[::-1]
    axes.barh(
        [f"{pair['label']} taken for {pair['predicted']}" for pair in shown],
        [pair["count"] for pair in shown],
        color=_BLUE,
    )
    axes.tick_params(axis="y", labelsize=7)
    axes.set(xlabel="photos")
