"""What keeps a job from continuing, in words that say what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jobs.redaction import redacted
from jobs.workers import why_nobody_classifies

if TYPE_CHECKING:
    from jobs.records import JobStatus, WorkerStatus
    from jobs.settings import Settings

__all__ = ["Obstacles"]

QUIET_SECONDS = 5.0  # a job that moves has no obstacle
BROKER_CHECK_SECONDS = 30.0
BROKER_PATIENCE = 10.0


class Obstacles:
    """Looks at one job again and again.

    `workers` lists them as of now; with `starts_worker` none need be alive, for whoever waits starts one.
    """

    def __init__(
        self, settings: Settings, workers: Callable[[], Sequence[WorkerStatus]], *, starts_worker: bool = False
    ) -> None:
        self._workers = workers
        self._starts_worker = starts_worker
        self._broker = _BrokerCheck(settings)
        self._seen: tuple[str, int] | None = None
        self._moved_at = time.monotonic()
        self.worker_alive = True

    def look(self, status: JobStatus) -> str | None:
        """Return what to tell the person about the job, which has this status; None when all is well."""
        idle = None if self._starts_worker else why_nobody_classifies(self._workers())
        self.worker_alive = idle is None
        if idle is not None:
            return idle
        if status.waiting:
            return f"job {status.id} waits {status.waiting}; it is tried again"
        seen = (status.state, status.total - status.pending)
        if seen != self._seen:
            self._seen, self._moved_at = seen, time.monotonic()
        if time.monotonic() - self._moved_at >= QUIET_SECONDS:
            return self._broker.notice()
        return None


class _BrokerCheck:
    """Asks now and then whether the broker answers, in a thread: one that is frozen keeps its callers waiting."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._began = float("-inf")
        self._reason: str | None = None

    def notice(self) -> str | None:
        """Return what to tell the person by the newest answer; the first time there is none yet."""
        if self._settings.embedded:
            return None
        now = time.monotonic()
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and now - self._began >= BROKER_CHECK_SECONDS:
            self._thread = threading.Thread(target=self._ask, name="broker-check", daemon=True)
            self._began = now
            self._thread.start()
        elif busy and now - self._began >= BROKER_PATIENCE:
            self._reason = f"nothing for {BROKER_PATIENCE:g} s"
        if self._reason is None:
            return None
        return (
            f"the broker at {redacted(self._settings.broker_url)} does not answer ({self._reason}); start Redis or "
            "correct CARS_BROKER_URL; until then workers find the work in the database, later than they could"
        )

    def _ask(self) -> None:
        from jobs import broker

        self._reason = broker.connection_error(self._settings)
