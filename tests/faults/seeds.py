"""How many times a fault that comes at a random moment is tried: a few, or FAULT_SEEDS of them."""

from __future__ import annotations

import os

__all__ = ["SEEDS"]

SEEDS = range(int(os.environ.get("FAULT_SEEDS", "3")))
