"""What sources behind a URL share: a connection per process, a limit to every wait, and how their errors are told."""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from jobs.errors import ImageUnavailable
from jobs.sources.base import why
from jobs.states import ImageErrorCode

__all__ = ["SECONDS", "PerProcess", "unavailable"]

Made = TypeVar("Made")

SECONDS = 60.0
"""The longest one listing call or one image may take, retries included."""


class PerProcess(Generic[Made]):
    """A filesystem or client, made by the process and at the time that it is first needed."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[tuple[int, Made]] = []

    def get(self) -> Made:
        """Return that of this process; raises what making it raises."""
        with self._lock:
            if not self._made or self._made[-1][0] != os.getpid():
                # One made before a fork is kept: its finalizer would close connections that the parent still uses.
                self._made.append((os.getpid(), self._make()))
            return self._made[-1][1]

    def forget(self) -> Made | None:
        """Return that of this process, if it was made; the next `get` makes another."""
        with self._lock:
            return self._made.pop()[1] if self._made and self._made[-1][0] == os.getpid() else None


def unavailable(error: Exception) -> ImageUnavailable:
    """Return what an image's row says of an error that occurred when the image was read."""
    if isinstance(error, FileNotFoundError):
        return ImageUnavailable(ImageErrorCode.VANISHED, "the file was there when the source was scanned, and is gone")
    if isinstance(error, TimeoutError):
        return ImageUnavailable(ImageErrorCode.UNREADABLE, f"the file could not be read within {SECONDS:.0f} seconds")
    return ImageUnavailable(ImageErrorCode.UNREADABLE, f"the file cannot be read: {why(error)}")
