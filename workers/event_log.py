"""The log lines of what has happened. A line has the logger of the module that does the work it is about.

A version that is promoted has no line of its own: that of its run says so. Nor has a run that ends without a version:
how its attempts ended is logged by `workers.training.task`, whether they were the last or not.
"""

from __future__ import annotations

import logging

from jobs.states import JobState, RunState
from workers import events

__all__ = ["start"]

_classify = logging.getLogger("workers.classification.classify")
_finish = logging.getLogger("workers.classification.finish")
_recovery = logging.getLogger("workers.recovery.thread")
_attempt = logging.getLogger("workers.training.attempt")
_training = logging.getLogger("workers.training.task")


def start() -> None:
    """Log the events of this process and of its children from now on."""
    events.subscribe(events.BatchCommitted, _batch_committed)
    events.subscribe(events.JobFinished, _job_finished)
    events.subscribe(events.RunFinished, _run_finished)
    events.subscribe(events.LeaseLost, _lease_lost)


def _batch_committed(event: events.BatchCommitted) -> None:
    rate = event.images / event.seconds if event.seconds else 0.0
    _classify.info(
        "batch %d of job %d: %d images, %.0f per second",
        *(event.batch, event.job, event.images, rate),
        extra={"job": event.job, "batch": event.batch, "images": event.images, "seconds": round(event.seconds, 3)},
    )


def _job_finished(event: events.JobFinished) -> None:
    if event.state is JobState.FAILED:
        _recovery.warning("job %d is %s", event.job, event.error)
        return
    _finish.info(
        "job %d %s: %d ok, %d failed, %d cached",
        *(event.job, event.state, event.ok, event.failed, event.cached),
        extra={"job": event.job, "images": event.images},
    )


def _run_finished(event: events.RunFinished) -> None:
    if event.state in (RunState.PUBLISHED, RunState.REJECTED):
        _attempt.info("run %d %s: %s: %s", event.run, event.state, event.model_version, event.reason)


def _lease_lost(event: events.LeaseLost) -> None:
    if event.batch is not None:
        _classify.warning("batch %d was reclaimed meanwhile; nothing of it was written", event.batch)
    elif event.unwritten is not None:
        _training.warning("run %d was reclaimed meanwhile (%s)", event.run, event.unwritten)
    else:
        _training.warning("run %d was reclaimed meanwhile; nothing more of it is written here", event.run)
