"""The training task: one run at a time, under a lease, continued where its last worker left it.

What needs torch is loaded when a run begins (`workers.training.attempt`), in a child: the parent imports this module
too.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

from jobs.db.queries import training_runs
from jobs.errors import CarClassifierError, DatabaseUnavailable
from jobs.queues import TRAIN_MODEL
from jobs.states import RunState
from model.errors import ImageError, ModelError, StoreUnavailable
from model.training.progress import RunProgress
from workers.lease import Lease, LeaseLost
from workers.runtime import Runtime

__all__ = ["FOLDER", "Stopped", "Watch", "notify_runs", "reclaim_runs", "train_model"]

logger = logging.getLogger(__name__)
FOLDER = "training"  # of CARS_HOME: what runs keep on this machine, as ID-TOKEN-ATTEMPT
STALL_SECONDS = 3_600.0  # opening a large data set, or quantizing, says nothing for long
TELL_SECONDS = 1.0  # between two writes of the progress, and between two looks for a cancellation
MOST_NOTES = 100  # that are kept; the log has all
AGAIN_SECONDS = 5.0  # between two messages for the same waiting run


class Stopped(Exception):
    """The run is to end here: canceled, or the worker is stopping and another goes on with it."""

    def __init__(self, *, canceled: bool) -> None:
        super().__init__("canceled" if canceled else "the worker stops")
        self.canceled = canceled


class Watch:
    """Between a run and the database: writes its progress, and notices when it is to stop."""

    def __init__(
        self, runtime: Runtime, claim: training_runs.Claim, *, progress: Mapping[str, Any], closing: Callable[[], bool]
    ) -> None:
        self._database = runtime.database
        self._claim = claim
        self._closing = closing
        self._progress = dict(progress)
        self._written = self._looked = float("-inf")
        self._stopped: Stopped | None = None
        self.lease: Lease | None = None

    def stage(self, name: str) -> None:
        """Say what the run is busy with now. Raises Stopped or LeaseLost."""
        logger.info("run %d: %s", self._claim.id, name)
        self._progress["stage"] = name
        self._write()
        self.check()

    def note(self, text: str) -> None:
        """Keep a remark for whoever looks at the run."""
        shown = _storable(text)
        logger.info("run %d: %s", self._claim.id, shown)
        notes = self._progress.setdefault("notes", [])
        if shown not in notes and len(notes) < MOST_NOTES:
            notes.append(shown)

    def trained(self, progress: RunProgress) -> None:
        """Take what the training reports of itself. Raises LeaseLost."""
        whole = progress.is_whole_epoch
        self._progress |= {name: value for name, value in progress.to_json().items() if value is not None}
        if whole:
            self._progress["epochs_run"] = self._progress.get("epochs_run", 0) + 1
            logger.info(
                "run %d: epoch %d of %d: loss %.3f, validation %.3f, accuracy %.1f %%, %.3g images a second%s",
                *(self._claim.id, progress.epoch, progress.epochs, progress.train_loss, progress.valid_loss),
                *(100 * (progress.accuracy or 0), progress.images_per_second, _of_limit(progress)),
            )
        if whole or time.monotonic() - self._written >= TELL_SECONDS:
            self._write(epoch_done=whole)
        self._check_lease()

    def to_stop(self) -> bool:
        """Whether the run is to stop now. Raises LeaseLost."""
        try:
            self.check()
        except Stopped:
            return True
        return False

    def check(self) -> None:
        """Raise Stopped when the run is to stop, LeaseLost when it is another's."""
        self._check_lease()
        if self._stopped is not None:
            raise self._stopped
        if self._closing():
            self._stopped = Stopped(canceled=False)
            raise self._stopped
        if time.monotonic() - self._looked < TELL_SECONDS:
            return
        try:
            with self._database.read() as connection:
                canceled = training_runs.cancel_requested(connection, self._claim)
        except DatabaseUnavailable:  # training goes on without it for as long as the lease is not known to be lost
            return
        if canceled is None:
            raise LeaseLost
        if canceled:
            self._stopped = Stopped(canceled=True)
            raise self._stopped
        self._looked = time.monotonic()

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.progress()
            self.lease.check()

    def _write(self, *, epoch_done: bool = False) -> None:
        self._written = time.monotonic()
        try:
            with self._database.write(durable=False) as connection:
                leased = training_runs.report(connection, self._claim, self._progress, epoch_done=epoch_done)
        except DatabaseUnavailable as exc:
            logger.warning("the progress of run %d is not written: %s", self._claim.id, exc)
            return
        if not leased:
            raise LeaseLost


def _of_limit(progress: RunProgress) -> str:
    """How near the training comes to the speed of the network alone, in words."""
    limit = progress.network_images_per_second
    return f", {progress.images_per_second / limit:.0%} of the network's own limit of {limit:.3g}" if limit else ""


def train_model(runtime: Runtime, run_id: int, *, closing: Callable[[], bool] = lambda: False) -> bool:
    """Take a queued run and see it to its end; False when there was nothing to take.

    `closing` says that this worker is to stop: the run is given back, with its checkpoint.
    """
    seconds = runtime.settings.lease_seconds
    with runtime.database.write() as connection:
        claim = training_runs.claim(connection, run_id, owner=runtime.owner, seconds=seconds)
        row = training_runs.get(connection, run_id)
    if claim is None or row is None:
        return False
    logger.info("run %d: attempt %d, %s on %s", run_id, claim.attempt, row.recipe, row.dataset)
    try:
        _run_claimed(runtime, claim, row, closing)
    except LeaseLost:
        logger.warning("run %d was reclaimed meanwhile; nothing more of it is written here", run_id)
    except Stopped as exc:
        _write(runtime, training_runs.stop if exc.canceled else training_runs.release, claim, f"run {run_id}: {exc}")
    except DatabaseUnavailable:
        raise  # the lease runs out, and the run goes on from its checkpoint
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
    _sweep(runtime)
    return True


def _run_claimed(runtime: Runtime, claim: training_runs.Claim, row: Any, closing: Callable[[], bool]) -> None:
    def renew() -> bool:
        with runtime.database.write(durable=False) as connection:
            return training_runs.renew(connection, claim, seconds=runtime.settings.lease_seconds)

    watch = Watch(runtime, claim, progress=row.progress, closing=closing)
    stall = max(runtime.settings.stall_seconds, STALL_SECONDS)
    with Lease(renew, seconds=runtime.settings.lease_seconds, stall_seconds=stall) as lease:
        watch.lease = lease
        from workers.training.attempt import Learning  # torch and fastai

        Learning(runtime, claim, row, watch).go()


def _fail(runtime: Runtime, claim: training_runs.Claim, error: str) -> None:
    shown = _storable(error)
    _write(runtime, lambda c, h: training_runs.fail(c, h, shown), claim, f"run {claim.id} failed: {shown}")


def _postpone(runtime: Runtime, claim: training_runs.Claim, error: str) -> None:
    shown = _storable(error)
    with runtime.database.write() as connection:
        state = training_runs.postpone(connection, claim, shown)
    logger.warning("run %d is %s after attempt %d: %s", claim.id, state or "another's", claim.attempt, shown)


def _storable(text: str) -> str:
    """The text without what databases refuse: bytes that are no UTF-8, and NUL."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def _write(
    runtime: Runtime, statement: Callable[[Any, training_runs.Claim], bool], claim: training_runs.Claim, words: str
) -> None:
    with runtime.database.write() as connection:
        written = statement(connection, claim)
    logger.warning("%s", words if written else f"run {claim.id} was reclaimed meanwhile ({words})")


def _sweep(runtime: Runtime) -> None:
    """Remove the folders of runs that have ended, however that was. One that is left half removed keeps its name."""
    root = runtime.settings.home / FOLDER
    for folder in root.iterdir() if root.is_dir() else ():
        match = re.fullmatch(r"(\d{1,18})-([0-9a-f]+)-\d+", folder.name)
        if match is None:
            continue
        with runtime.database.read() as connection:
            row = training_runs.get(connection, int(match[1]))
        if row is not None and row.token == match[2] and RunState(row.state).terminal:
            shutil.rmtree(folder, ignore_errors=True)


def reclaim_runs(runtime: Runtime, is_alive: Callable[[str], bool]) -> None:
    """Queue again the runs whose lease ran out, and those whose process, one of this worker's, is dead.

    What runs that have ended left on this machine is removed: their process may have died before it came to that, or
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
            why = "the process that claim it died" if owner else "its lease expired"
            logger.warning("run %d is reclaimed: %s; it is %s now", run_id, why, state)
    _sweep(runtime)


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
