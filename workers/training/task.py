"""The training task: one run at a time, under a lease, continued where its last worker left it.

What needs torch is loaded when a run begins (`workers.training.attempt`), in a child: the parent imports this module
too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sqlalchemy import Connection

from jobs.db.queries import training_runs
from jobs.errors import CarClassifierError, DatabaseUnavailable
from jobs.queues import TRAIN_MODEL
from jobs.states import RunState
from model.errors import ImageError, ModelError, StoreUnavailable
from workers import events
from workers.lease import Lease, LeaseLost
from workers.runtime import Runtime
from workers.training.monitor import RunMonitor, Stopped, storable
from workers.training.workspace import remove_ended

__all__ = ["notify_runs", "reclaim_runs", "train_model"]

logger = logging.getLogger(__name__)
STALL_SECONDS = 3_600.0  # opening a large data set, or quantizing, reports nothing for long
AGAIN_SECONDS = 5.0  # between two messages for the same waiting run


def train_model(runtime: Runtime, run_id: int, *, closing: Callable[[], bool] = lambda: False) -> bool:
    """Claim a queued run and execute it; return False when there was nothing to claim.

    `closing` says whether this worker stops: then the run is released, with its checkpoint.
    """
    seconds = runtime.settings.lease_seconds
    with runtime.database.write() as connection:
        claim = training_runs.claim(connection, run_id, owner=runtime.owner, seconds=seconds)
        run = training_runs.get(connection, run_id)
    if claim is None or run is None:
        return False
    logger.info("run %d: attempt %d, %s on %s", run_id, claim.attempt, run.recipe, run.dataset)
    try:
        _train(runtime, claim, run, closing)
    except LeaseLost:
        events.publish(events.LeaseLost(run=run_id))
    except Stopped as exc:
        _stop(runtime, claim, exc)
    except DatabaseUnavailable:
        raise  # the lease expires, and the run continues from its checkpoint
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as exc:  # will be so again
        _fail(runtime, claim, str(exc))
    except (StoreUnavailable, OSError) as exc:  # a store that is away, a full disk: that may pass
        _postpone(runtime, claim, str(exc))
    except (ModelError, ImageError, CarClassifierError) as exc:
        _fail(runtime, claim, str(exc))
    except ModuleNotFoundError as exc:
        _fail(runtime, claim, f"this worker cannot train: {exc}; pip install 'car-classifier[train]'")
    except Exception as exc:
        logger.exception("run %d failed", run_id)
        _fail(runtime, claim, f"{type(exc).__name__}: {exc}")
    remove_ended(runtime.settings, runtime.database)
    return True


def _train(
    runtime: Runtime, claim: training_runs.Claim, run: training_runs.RunRecord, closing: Callable[[], bool]
) -> None:
    def renew() -> bool:
        with runtime.database.write(durable=False) as connection:
            return training_runs.renew(connection, claim, seconds=runtime.settings.lease_seconds)

    monitor = RunMonitor(runtime, claim, progress=run.progress, closing=closing)
    stall = max(runtime.settings.stall_seconds, STALL_SECONDS)
    with Lease(renew, seconds=runtime.settings.lease_seconds, stall_seconds=stall) as lease:
        monitor.lease = lease
        from workers.training.attempt import TrainingAttempt  # torch and fastai

        TrainingAttempt(runtime, claim, run, monitor).run()


def _stop(runtime: Runtime, claim: training_runs.Claim, stopped: Stopped) -> None:
    statement = training_runs.stop if stopped.canceled else training_runs.release
    written = _write(runtime, statement, claim, f"run {claim.id}: {stopped}")
    if written and stopped.canceled:
        _publish_end(claim.id, RunState.CANCELED, str(stopped))


def _fail(runtime: Runtime, claim: training_runs.Claim, error: str) -> None:
    message = storable(error)
    if _write(runtime, lambda c, h: training_runs.fail(c, h, message), claim, f"run {claim.id} failed: {message}"):
        _publish_end(claim.id, RunState.FAILED, message)


def _postpone(runtime: Runtime, claim: training_runs.Claim, error: str) -> None:
    message = storable(error)
    with runtime.database.write() as connection:
        state = training_runs.postpone(connection, claim, message)
    logger.warning("run %d is %s after attempt %d: %s", claim.id, state or "another's", claim.attempt, message)
    _publish_end(claim.id, state, message)


def _write(
    runtime: Runtime,
    statement: Callable[[Connection, training_runs.Claim], bool],
    claim: training_runs.Claim,
    text: str,
) -> bool:
    """Write how the attempt ended, and log it; False when the run was reclaimed meanwhile."""
    with runtime.database.write() as connection:
        written = statement(connection, claim)
    if written:
        logger.warning("%s", text)
    else:
        events.publish(events.LeaseLost(run=claim.id, unwritten=text))
    return written


def _publish_end(run_id: int, state: RunState | None, reason: str) -> None:
    """Publish that a run has ended without a version, if this state is an end."""
    if state is not None and state.terminal:
        events.publish(events.RunFinished(run=run_id, state=state, model_version=None, reason=reason))


def reclaim_runs(runtime: Runtime, is_alive: Callable[[str], bool]) -> None:
    """Queue again the runs whose lease has expired, and those of this worker's processes that have crashed.

    The folders of ended runs on this machine are removed: their process may have crashed before it came to that, or
    they were canceled or given up while no process had them.
    """
    with runtime.database.read() as connection:
        expired = training_runs.expired(connection)
        mine = training_runs.leased_by(connection, f"{runtime.identity}:")
    lost: list[tuple[int, str | None]] = [(run_id, None) for run_id in expired]
    lost += [(run_id, owner) for run_id, owner in mine if not is_alive(owner)]
    for run_id, owner in lost:
        with runtime.database.write() as connection:
            state = training_runs.reclaim(connection, run_id, owner=owner)
        if state is not None:
            why = "its process crashed" if owner else "its lease expired"
            logger.warning("run %d is reclaimed: %s; it is %s now", run_id, why, state)
            _publish_end(run_id, state, why)
    remove_ended(runtime.settings, runtime.database)


def notify_runs(runtime: Runtime, last_notified: dict[int, float], *, idle: bool, patience: float) -> None:
    """Send a message for every run that waits: once, and now and then while this worker has nothing to do."""
    with runtime.database.read() as connection:
        queued = training_runs.waiting(connection, patience=patience)
    now = time.monotonic()
    for run_id in queued:
        if run_id not in last_notified or (idle and now - last_notified[run_id] > AGAIN_SECONDS):
            last_notified[run_id] = now
            runtime.notify(TRAIN_MODEL, run_id)
    for run_id in last_notified.keys() - set(queued):
        del last_notified[run_id]
