"""Thumbnails of a job's images, made when a page asks for them by the process that decodes, with a bounded cache."""

from __future__ import annotations

import threading
from collections import OrderedDict
from queue import SimpleQueue
from typing import TYPE_CHECKING

from jobs.preview import Preview
from jobs.states import ImageFailure

if TYPE_CHECKING:
    from jobs.job import Job
    from jobs.settings import Settings

__all__ = ["Thumbnails"]

SIZE = 320  # pixels of the longer side
MOST_BYTES = 64 << 20
CHILDREN = 2


class Thumbnails:
    """A few child processes that take turns, and what they have made of late. Safe in several threads."""

    def __init__(self, settings: Settings, *, children: int = CHILDREN, most_bytes: int = MOST_BYTES) -> None:
        self._previews = [Preview(settings) for _ in range(children)]
        self._idle: SimpleQueue[Preview] = SimpleQueue()
        for preview in self._previews:
            self._idle.put(preview)
        self._most_bytes = most_bytes
        self._made: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def cached_bytes(self) -> int:
        """How much the cache has in memory."""
        return self._bytes

    def get(self, job: Job, path: str) -> bytes | ImageFailure:
        """Return the JPEG of an image of a job, or why there is none. Raises SourceError, ImageNotFound, JobNotFound,
        PreviewUnavailable.
        """
        key = (job.id, path)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        preview = self._idle.get()
        try:
            made = preview.thumbnail(job.read(path), size=SIZE)
        finally:
            self._idle.put(preview)
        if isinstance(made, bytes):
            self._keep(key, made)
        return made

    def _keep(self, key: tuple[str, str], made: bytes) -> None:
        with self._lock:
            self._bytes += len(made) - len(self._made.pop(key, b""))
            self._made[key] = made
            while self._bytes > self._most_bytes:
                self._bytes -= len(self._made.popitem(last=False)[1])

    def close(self) -> None:
        """End the processes."""
        for preview in self._previews:
            preview.close()
