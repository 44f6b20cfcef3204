"""The broker is a doorbell: names of tasks and queues, Celery's configuration, and ringing.

Messages are JSON, carry ids only, are sent after the commit that made the rows, and may be lost or repeated without
harm.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from jobs.redaction import redacted
from jobs.settings import Settings

__all__ = [
    "CLASSIFY_BATCH",
    "FINISH_JOB",
    "QUEUES",
    "SCAN_JOB",
    "TICK",
    "TRAIN_MODEL",
    "Doorbell",
    "answers",
    "make_app",
    "shown",
]

SCAN_JOB = "workers.scan_job"
CLASSIFY_BATCH = "workers.classify_batch"
FINISH_JOB = "workers.finish_job"
TICK = "workers.tick"
TRAIN_MODEL = "workers.train_model"
QUEUES = ("control", "classify", "train")
ROUTES = {
    SCAN_JOB: "control",
    FINISH_JOB: "control",
    TICK: "control",
    CLASSIFY_BATCH: "classify",
    TRAIN_MODEL: "train",
}
TICK_SECONDS = 10.0
SOCKET_SECONDS = 5.0  # a broker that says nothing for so long is taken for gone; more than a BRPOP of kombu's waits
SILENCE_SECONDS = 5.0  # after a ring that failed: each one more would hold its thread up for seconds
logger = logging.getLogger(__name__)


def make_app(settings: Settings) -> Celery:
    """A Celery app with this project's configuration; it registers no task itself."""
    app = Celery("cars", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=False,  # the lease brings lost work back, never the broker
        task_publish_retry=False,
        task_queues=[Queue(name) for name in QUEUES],
        task_create_missing_queues=False,
        task_default_queue="control",
        task_routes={task: {"queue": queue} for task, queue in ROUTES.items()},
        worker_prefetch_multiplier=1,
        # Celery's own tools reach the workers of a real broker; nobody else hears the one inside a process.
        worker_send_task_events=not settings.embedded,
        worker_enable_remote_control=not settings.embedded,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=SOCKET_SECONDS,
        broker_transport_options=_transport(settings),
        beat_scheduler="celery.beat:Scheduler",  # in memory: the ledger is in the database
        beat_schedule={"tick": {"task": TICK, "schedule": TICK_SECONDS, "options": {"expires": TICK_SECONDS}}},
        enable_utc=True,
        timezone="UTC",
    )
    return app


def _transport(settings: Settings) -> dict[str, Any]:
    if settings.embedded:
        return {"polling_interval": 0.02}
    return {
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": SOCKET_SECONDS,
        "socket_keepalive": True,
        "socket_keepalive_options": _keepalive(),
        "health_check_interval": int(SOCKET_SECONDS),
        "max_retries": 1,
        "interval_start": 0,
    }


def _keepalive() -> dict[int, int]:
    """A peer that is gone without a word is noticed after half a minute, where this system lets one say so."""
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


class Doorbell:
    """Rings workers through the broker. A ring that does not get through is logged and harmless: `recover` finds the
    work."""

    def __init__(self, settings: Settings, *, app: Celery | None = None) -> None:
        self._app = app or make_app(settings)
        self._url = settings.broker_url
        self._silent_until = float("-inf")

    def ring(self, task: str, *ids: int) -> bool:
        """Send one message; False when the broker does not answer, or did not a moment ago."""
        if time.monotonic() < self._silent_until:
            return False
        try:
            self._app.send_task(task, args=list(ids), queue=ROUTES[task], retry=False)
        except (OperationalError, OSError) as exc:
            self._silent_until = time.monotonic() + SILENCE_SECONDS
            logger.warning(
                "the broker at %s does not answer (%s); workers will find the work in the database",
                shown(self._url),
                exc,
            )
            return False
        return True

    def close(self) -> None:
        self._app.close()


def answers(settings: Settings) -> str | None:
    """None when the broker can be reached, else the reason why not."""
    if settings.embedded:
        return None
    app = make_app(settings)
    try:
        with app.connection_for_write(connect_timeout=5) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
    except (OperationalError, OSError) as exc:
        return str(exc)
    finally:
        app.close()
    return None


def shown(url: str) -> str:
    """A broker's URL with its secrets hidden."""
    return redacted(url)
