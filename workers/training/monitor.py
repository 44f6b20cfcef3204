"""The progress of a run in the database, and when it has to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from jobs.db.queries import training_runs
from jobs.errors import DatabaseUnavailable
from model.training.progress import RunProgress
from workers.lease import Lease, LeaseLost
from workers.runtime import Runtime

__all__ = ["RunMonitor", "Stopped", "storable"]

logger = logging.getLogger(__name__)
REPORT_SECONDS = 1.0  # between two writes of the progress, and between two looks for a cancellation
MAX_NOTES = 100  # that are kept; the log has all


class Stopped(Exception):
    """The run ends here: it was canceled, or the worker stops and another continues the run."""

    def __init__(self, *, canceled: bool) -> None:
        super().__init__("canceled" if canceled else "the worker stops")
        self.canceled = canceled


class RunMonitor:
    """Writes the progress of a run to the database, and notices when the run has to stop."""

    def __init__(
        self, runtime: Runtime, claim: training_runs.Claim, *, progress: Mapping[str, Any], closing: Callable[[], bool]
    ) -> None:
        self._database = runtime.database
        self._claim = claim
        self._closing = closing
        self._progress = dict(progress)
        self._written_at = self._checked_at = float("-inf")
        self._stopped: Stopped | None = None
        self.lease: Lease | None = None

    def stage(self, name: str) -> None:
        """Write what the run is doing now. Raises Stopped or LeaseLost."""
        logger.info("run %d: %s", self._claim.id, name)
        self._progress["stage"] = name
        self._write()
        self.check()

    def note(self, text: str) -> None:
        """Keep a remark for the run's status."""
        remark = storable(text)
        logger.info("run %d: %s", self._claim.id, remark)
        notes = self._progress.setdefault("notes", [])
        if remark not in notes and len(notes) < MAX_NOTES:
            notes.append(remark)

    def report(self, progress: RunProgress) -> None:
        """Take what the training reports. Raises LeaseLost."""
        whole = progress.is_whole_epoch
        self._progress |= {name: value for name, value in progress.to_json().items() if value is not None}
        if whole:
            self._progress["epochs_run"] = self._progress.get("epochs_run", 0) + 1
            self._add_to_curve(progress)
            logger.info(
                "run %d: epoch %d of %d: loss %.3f, validation %.3f, accuracy %.1f %%, %.3g images per second%s",
                *(self._claim.id, progress.epoch, progress.epochs, progress.train_loss, progress.valid_loss),
                *(100 * (progress.accuracy or 0), progress.images_per_second, _of_limit(progress)),
            )
        if whole or time.monotonic() - self._written_at >= REPORT_SECONDS:
            self._write(epoch_done=whole)
        self._check_lease()

    def _add_to_curve(self, progress: RunProgress) -> None:
        """Keep the numbers of a whole epoch; one that another attempt has trained before is replaced."""
        before = [point for point in self._progress.get("curve", []) if point["epoch"] < progress.epoch]
        names = ("epoch", "train_loss", "valid_loss", "accuracy")
        self._progress["curve"] = [*before, {name: getattr(progress, name) for name in names}]

    def should_stop(self) -> bool:
        """Return whether the run has to stop now. Raises LeaseLost."""
        try:
            self.check()
        except Stopped:
            return True
        return False

    def check(self) -> None:
        """Raise Stopped when the run has to stop, LeaseLost when another process may have it."""
        self._check_lease()
        if self._stopped is not None:
            raise self._stopped
        if self._closing():
            self._stopped = Stopped(canceled=False)
            raise self._stopped
        if time.monotonic() - self._checked_at < REPORT_SECONDS:
            return
        try:
            with self._database.read() as connection:
                canceled = training_runs.cancel_requested(connection, self._claim)
        except DatabaseUnavailable:  # training continues for as long as the lease is not known to be lost
            return
        if canceled is None:
            raise LeaseLost
        if canceled:
            self._stopped = Stopped(canceled=True)
            raise self._stopped
        self._checked_at = time.monotonic()

    def _check_lease(self) -> None:
        if self.lease is not None:
            self.lease.progress()
            self.lease.check()

    def _write(self, *, epoch_done: bool = False) -> None:
        self._written_at = time.monotonic()
        try:
            with self._database.write(durable=False) as connection:
                leased = training_runs.report(connection, self._claim, self._progress, epoch_done=epoch_done)
        except DatabaseUnavailable as exc:
            logger.warning("the progress of run %d is not written: %s", self._claim.id, exc)
            return
        if not leased:
            raise LeaseLost


def _of_limit(progress: RunProgress) -> str:
    """Return how near the training comes to the speed of the network alone, as text."""
    limit = progress.network_images_per_second
    return f", {progress.images_per_second / limit:.0%} of the network's own limit of {limit:.3g}" if limit else ""


def storable(text: str) -> str:
    """Return the text without what databases refuse: bytes that are not UTF-8, and NUL."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
