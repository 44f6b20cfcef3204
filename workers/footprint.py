"""Where the packages that a worker uses may leave files."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["keep_to"]


def keep_to(home: Path) -> None:
    """Let them stay inside CARS_HOME; before any of them is loaded."""
    os.environ.setdefault("MPLCONFIGDIR", str(home / "matplotlib"))  # its list of fonts, else under ~/.cache
