"""How many times a fault that comes at a random moment is tried: once, or FAULT_SEEDS times."""

from __future__ import annotations

import os

__all__ = ["SEEDS"]

SEEDS = range(int(os.environ.get("FAULT_SEEDS", "1")))
