"""Messages from every process of a worker: through a pipe to the parent, where a thread sends them to the broker.

A broker that is frozen or unreachable blocks that thread and nothing else: no lease, no heartbeat and no batch ever
waits for it.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from contextlib import suppress

from jobs.notifier import Notifier

__all__ = ["PipeNotifier"]

logger = logging.getLogger(__name__)


class PipeNotifier:
    """Made in the parent before it forks. Lines under PIPE_BUF are atomic."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self._rest = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        """Send what is written to the pipe from now on. In the parent."""
        self._thread.start()

    def notify(self, task: str, *ids: int) -> bool:
        """Send one message; False when it will not get through, which is harmless. Never waits."""
        try:
            os.write(self._writer, json.dumps([task, *ids]).encode() + b"\n")
        except OSError:  # the pipe is full, or the parent is gone: the work is found in the database
            return False
        return True

    def publish(self, seconds: float) -> None:
        """Wait at most so long for messages, and send what has come to the broker."""
        ready, _, _ = select.select([self.reader], [], [], seconds)
        if not ready:
            return
        lines = (self._rest + os.read(self.reader, 65_536)).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line and not self._stop.is_set():
                task, *ids = json.loads(line)
                self._notifier.notify(task, *ids)

    def stop(self, *, patience: float = 1.0) -> None:
        """End the thread; one that waits for the broker is left behind."""
        self._stop.set()
        with suppress(BlockingIOError):  # a full pipe wakes it as well
            os.write(self._writer, b"\n")
        if self._thread.is_alive():
            self._thread.join(patience)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.publish(10.0)
            except Exception:
                logger.exception("notifying failed; it continues with the next message")
