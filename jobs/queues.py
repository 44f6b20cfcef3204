"""The names of tasks and queues, without Celery."""

from __future__ import annotations

from typing import Final

__all__ = ["CLASSIFY_BATCH", "FINISH_JOB", "QUEUES", "ROUTES", "SCAN_JOB", "TICK", "TIDY_SCHEDULE", "TRAIN_MODEL"]

SCAN_JOB: Final = "workers.scan_job"
CLASSIFY_BATCH: Final = "workers.classify_batch"
FINISH_JOB: Final = "workers.finish_job"
TIDY_SCHEDULE: Final = "workers.tidy_schedule"
TICK: Final = "workers.tick"
TRAIN_MODEL: Final = "workers.train_model"

ROUTES: Final = {
    SCAN_JOB: "control",
    FINISH_JOB: "control",
    TICK: "control",
    TIDY_SCHEDULE: "control",
    CLASSIFY_BATCH: "classify",
    TRAIN_MODEL: "train",
}
"""The queue of each task."""

QUEUES: Final = tuple(dict.fromkeys(ROUTES.values()))
