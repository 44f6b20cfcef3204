"""Ringing from a child of a worker whose broker lives in the parent's memory: through a pipe."""

from __future__ import annotations

import json
import os
import select
from contextlib import suppress

from jobs.broker import Doorbell

__all__ = ["Bell"]


class Bell:
    """Made in the parent before it forks. With a real broker every process rings for itself.

    With the in-process broker a child writes a line into the pipe (lines under PIPE_BUF are atomic) and the parent's
    `recover` thread publishes it.
    """

    def __init__(self, doorbell: Doorbell, *, embedded: bool) -> None:
        self._doorbell = doorbell
        self._embedded = embedded
        self._parent = os.getpid()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._rest = b""

    def ring(self, task: str, *ids: int) -> bool:
        """Send one message; False when it did not get through, which is harmless."""
        if not self._embedded or os.getpid() == self._parent:
            return self._doorbell.ring(task, *ids)
        try:
            os.write(self._writer, json.dumps([task, *ids]).encode() + b"\n")
        except OSError:  # the pipe is full, or the parent is gone: recover finds the work
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Publish what children ring, at once, for so long or until `wake` is called. For the parent."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        if not ready:
            return
        lines = (self._rest + os.read(self._reader, 65_536)).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line:
                task, *ids = json.loads(line)
                self._doorbell.ring(task, *ids)

    def wake(self) -> None:
        """End a `wait` early."""
        with suppress(BlockingIOError):  # a full pipe ends it as well
            os.write(self._writer, b"\n")

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
