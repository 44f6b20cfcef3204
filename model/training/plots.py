"""The figures of a run: losses and accuracy by epoch, and what the learning-rate finder saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from model.figures import BLUE, GRAY, RED, save_figure
from model.training.progress import RunProgress

__all__ = ["draw_history", "draw_rates"]


def draw_history(file: Path, epochs: Sequence[RunProgress]) -> Path:
    """Draw losses and accuracy by epoch; return the file's path."""

    def curves(axes: Axes) -> None:
        numbers = [progress.epoch for progress in epochs]
        axes.plot(numbers, [progress.train_loss for progress in epochs], color=BLUE, label="training loss")
        axes.plot(
            numbers,
            np.array([progress.valid_loss for progress in epochs], dtype=float),
            color=GRAY,
            label="calibration loss",
        )
        axes.set(xlabel="epoch", ylabel="loss")
        right = axes.twinx()
        right.plot(
            numbers,
            np.array([progress.accuracy for progress in epochs], dtype=float),
            color=RED,
            label="calibration accuracy",
        )
        right.set(ylabel="accuracy", ylim=(0, 1))
        lines = [*axes.get_lines(), *right.get_lines()]
        axes.legend(lines, [str(line.get_label()) for line in lines], frameon=False)

    return save_figure(file, curves)


def draw_rates(file: Path, rates: Sequence[float], losses: Sequence[float], chosen: float) -> Path:
    """Draw the learning-rate finder's curve and the rate that was taken; return the file's path."""

    def curve(axes: Axes) -> None:
        axes.plot(rates, losses, color=BLUE)
        axes.axvline(chosen, color=RED, linestyle="--", label=f"taken: {chosen:.1e}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss")
        axes.legend(frameon=False)

    return save_figure(file, curve)
