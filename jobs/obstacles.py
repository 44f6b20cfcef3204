"""What keeps a job from going on, in words that say what to do."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from jobs.redaction import redacted

if TYPE_CHECKING:
    from jobs.client import Client
    from jobs.settings import Settings

__all__ = ["Obstacles", "anyone_classifies", "nobody_works"]

QUIET_SECONDS = 5.0  # a job that moves has no obstacle
BROKER_CHECK_SECONDS = 30.0
BROKER_PATIENCE = 10.0


def anyone_classifies(client: Client) -> bool:
    """Whether a worker is alive that takes images, and is not broken."""
    return any(_is_sound(worker) for worker in _classifiers(client))


def nobody_works(client: Client) -> str | None:
    """What to tell the person when no worker takes images."""
    found = _classifiers(client)
    if any(map(_is_sound, found)):
        return None
    if found:
        return f"every worker is broken; one says: {found[0]['state'].removeprefix('broken: ')}; see: cars workers"
    return "no worker is alive; start one: cars worker"


def _classifiers(client: Client) -> list[dict[str, Any]]:
    return [worker for worker in client.workers() if worker["alive"] and "classify" in worker["queues"]]


def _is_sound(worker: dict[str, Any]) -> bool:
    return not worker["state"].startswith("broken")


class Obstacles:
    """Looks at one job again and again. `brings_worker`: no worker is needed, for whoever waits starts one."""

    def __init__(self, client: Client, *, brings_worker: bool = False) -> None:
        self._client = client
        self._brings_worker = brings_worker
        self._broker = _BrokerCheck(client.settings)
        self._seen: tuple[str, int] | None = None
        self._moved_at = time.monotonic()
        self.worker_alive = True

    def look(self, status: dict[str, Any]) -> str | None:
        """What to tell the person about the job, which has this status; None when all is well."""
        idle = None if self._brings_worker else nobody_works(self._client)
        self.worker_alive = idle is None
        if idle is not None:
            return idle
        if status["waiting"]:
            return f"job {status['id']} waits {status['waiting']}; it is tried again"
        seen = (status["state"], status["total"] - status["pending"])
        if seen != self._seen:
            self._seen, self._moved_at = seen, time.monotonic()
        if time.monotonic() - self._moved_at >= QUIET_SECONDS:
            return self._broker.words()
        return None


class _BrokerCheck:
    """Asks now and then whether the broker answers, in a thread: one that is frozen keeps its callers waiting."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._began = float("-inf")
        self._reason: str | None = None

    def words(self) -> str | None:
        """What to tell the person by the newest answer; the first time none is known yet."""
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
