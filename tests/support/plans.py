"""Training plans of seconds, over pictures of one colour (`tests.support.labelled_photos`)."""

from __future__ import annotations

from typing import Any

__all__ = ["LEARNS", "PLAN", "TINY"]

PLAN: dict[str, Any] = {
    "progressive_sizes": [[1.0, 24]],
    "eval_sizes": [24],
    "batch_size": 8,
    "augmentation": {"crop": 1.0, "strong": False},
    "phases": [{"epochs": 5, "lr_max": 0.02}],
    "loss": "cross_entropy",
    "bfloat16": False,
}
LEARNS = {**PLAN, "progressive_sizes": [[1.0, 32]], "eval_sizes": [32], "phases": [{"epochs": 8, "lr_max": 0.02}]}
TINY = {**PLAN, "phases": [{"epochs": 2, "lr_max": 0.001}], "batch_size": 16}
