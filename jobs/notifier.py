"""Sending messages that say "there is work", by the task's name.

Messages are JSON, carry ids only, are sent after the commit that made the rows, and may be lost or repeated without
harm.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from jobs import broker
from jobs.queues import ROUTES
from jobs.redaction import redacted
from jobs.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["Notifier"]

SILENCE_SECONDS = 5.0  # after a message that was not sent: each further one would block its thread for seconds
logger = logging.getLogger(__name__)


class Notifier:
    """Notifies workers through the broker. A message that is not sent is logged and harmless: recovery finds the
    work.
    """

    def __init__(self, settings: Settings, *, app: Celery | None = None) -> None:
        self._app = app or broker.make_app(settings)
        self._url = settings.broker_url
        self._silent_until = float("-inf")

    def notify(self, task: str, *ids: int) -> bool:
        """Send one message; False when the broker does not answer, or did not a moment ago."""
        if time.monotonic() < self._silent_until:
            return False
        try:
            self._app.send_task(task, args=list(ids), queue=ROUTES[task], retry=False)
        except broker.CONNECTION_ERRORS as exc:
            self._silent_until = time.monotonic() + SILENCE_SECONDS
            logger.warning(
                "the broker at %s does not answer (%s); workers will find the work in the database",
                redacted(self._url),
                exc,
            )
            return False
        return True

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()
