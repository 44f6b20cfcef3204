"""The Celery app and its configuration. The broker only notifies: the database is the truth."""

from __future__ import annotations

import socket

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from jobs.queues import QUEUES, ROUTES, TICK
from jobs.settings import Settings

__all__ = ["CONNECTION_ERRORS", "connection_error", "make_app"]

TICK_SECONDS = 10.0
SOCKET_SECONDS = 5.0  # after so long without an answer the broker counts as gone; longer than kombu's BRPOP waits
CONNECTION_ERRORS = (OperationalError, OSError)
"""What sending raises when the broker does not answer."""


def make_app(settings: Settings) -> Celery:
    """Return a Celery app with this project's configuration; it registers no task."""
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
        # Celery's own tools reach the workers of a real broker; the one inside a process is not reachable from others.
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


def _transport(settings: Settings) -> dict[str, object]:
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
    """Return socket options by which a vanished peer is noticed after half a minute, where the system has them."""
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def connection_error(settings: Settings) -> str | None:
    """Return why the broker cannot be reached, or None when it can."""
    if settings.embedded:
        return None
    app = make_app(settings)
    try:
        with app.connection_for_write(connect_timeout=5) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)
    except CONNECTION_ERRORS as exc:
        return str(exc)
    finally:
        app.close()
    return None
