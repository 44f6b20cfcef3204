"""Training plans of seconds, over pictures of one colour (`tests.support.labelled_photos`)."""

from __future__ import annotations

from typing import Any

__all__ = ["LEARNS", "PLAN", "TINY"]

PLAN: dict[str, Any] = {
    "sizes": [[1.0, 24]],
    "test_sizes": [24],
    "batch": 8,
    "views": {"crop": 1.0, "strong": False},
    "stages": [{"epochs": 5, "peak": 0.02}],
    "loss": "cross_entropy",
    "bfloat16": False,
}
LEARNS = {**PLAN, "sizes": [[1.0, 32]], "test_sizes": [32], "stages": [{"epochs": 8, "peak": 0.02}]}
TINY = {**PLAN, "stages": [{"epochs": 2, "peak": 0.001}], "batch": 16}
