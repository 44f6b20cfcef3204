"""Keeping a lease while the work continues, and noticing when either has stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from jobs.errors import DatabaseUnavailable

__all__ = ["Lease", "LeaseLost"]

logger = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another worker may have the batch by now: nothing of it may be committed."""


class Lease:
    """Renew a lease every third of its length from a thread of its own.

    `renew` returns False when the lease is lost; then `check` raises LeaseLost in the working thread. Work that makes
    no progress for `stall_seconds` (a decoder that hangs) ends the whole process: the lease expires and the batch
    is reclaimed as batches of one image.
    """

    def __init__(self, renew: Callable[[], bool], *, seconds: float, stall_seconds: float) -> None:
        self._renew = renew
        self._interval = seconds / 3
        self._stall = stall_seconds
        self._progress_at = time.monotonic()
        self._lost = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def progress(self) -> None:
        """Report that the work continues."""
        self._progress_at = time.monotonic()

    def check(self) -> None:
        """Raise LeaseLost when the lease is gone."""
        if self._lost.is_set():
            raise LeaseLost

    def _keep(self) -> None:
        while not self._done.wait(min(self._interval, self._stall / 2)):
            try:
                if not self._renew():
                    self._lost.set()
                    return
            except DatabaseUnavailable as exc:  # the database may be back before the lease runs out
                logger.warning("the lease could not be renewed: %s", exc)
            except Exception:
                logger.exception("the lease could not be renewed")
            if time.monotonic() - self._progress_at > self._stall:
                logger.error("no progress for %g s: this process ends itself", self._stall)
                os.kill(os.getpid(), signal.SIGKILL)
