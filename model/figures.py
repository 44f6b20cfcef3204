"""Figures as files: their colors, and how they are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["BLUE", "GRAY", "RED", "save_figure"]

BLUE, RED, GRAY = "#2962a8", "#b3382c", "#8a8a8a"


def save_figure(file: Path, paint: Callable[[Axes], None]) -> Path:
    """Draw on a figure of its own, without pyplot's global state or a display, and write it as PNG; return the path."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    paint(figure.subplots())
    figure.savefig(file, dpi=100, metadata={"Software": None})
    return file
