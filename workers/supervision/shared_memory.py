"""What a worker's parent and its children know of each other, in memory that they share.

There is no lock in it: each field has one writer, and a child that crashes can leave nothing locked.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["SLOTS", "Shared", "Slot"]

SLOTS: Final = 256  # children per worker; more of them share slots, which is not worse than not being monitored
PULSE_SECONDS: Final = 0.5
_TEXT: Final = 1024
_SLOT: Final = 64
_PID, _WORKING, _LOADING, _PULSE, _IMAGES = range(0, 40, 8)


class Shared:
    """Made in the parent before it forks: why the worker is broken, if it is, and a slot for each child."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _TEXT + SLOTS * _SLOT)

    @property
    def broken(self) -> str | None:
        """Why the worker takes no batches; None while it does."""
        (length,) = struct.unpack_from("<q", self._memory, 0)
        return self._memory[8 : 8 + length].decode(errors="replace") if length else None

    @broken.setter
    def broken(self, reason: str | None) -> None:
        """Write why the worker takes no batches."""
        text = " ".join((reason or "").split()).encode()[: _TEXT - 8]
        self._memory[8 : 8 + len(text)] = text
        struct.pack_into("<q", self._memory, 0, len(text))

    def slot(self, index: int) -> Slot:
        """Return the slot of the child with this place in the pool."""
        return Slot(self._memory, _TEXT + index % SLOTS * _SLOT)

    @property
    def images(self) -> int:
        """How many images all children have settled so far."""
        return sum(self.slot(index).images for index in range(SLOTS))

    def slots(self) -> Iterator[Slot]:
        """Yield those that a child has used."""
        return (slot for index in range(SLOTS) if (slot := self.slot(index)).pid)


class Slot:
    """What a child says of itself; only the child writes here."""

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory, self._at = memory, at
        self._pulse: threading.Thread | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and other._at == self._at

    def __hash__(self) -> int:
        return self._at

    @property
    def pid(self) -> int:
        """The process that has the slot; 0: none."""
        return self._get(_PID)

    @property
    def working(self) -> bool:
        """Whether it works on a batch."""
        return bool(self._get(_WORKING))

    @property
    def loading(self) -> bool:
        """Whether it loads a model version for a batch."""
        return bool(self._get(_LOADING))

    @property
    def pulse(self) -> int:
        """Changes while the child's interpreter can run any thread."""
        return self._get(_PULSE)

    @property
    def images(self) -> int:
        """How many images its processes have settled so far."""
        return self._get(_IMAGES)

    @contextmanager
    def work(self) -> Iterator[None]:
        """While a batch is in work; the pulse beats from the first one on."""
        self._begin()
        self._set(_WORKING, 1)
        try:
            yield
        finally:
            self._set(_WORKING, 0)

    @contextmanager
    def load(self) -> Iterator[None]:
        """While a model version is loaded. A process that crashes meanwhile leaves the flag set."""
        self._set(_LOADING, 1)
        try:
            yield
        finally:
            self._set(_LOADING, 0)

    def count(self, images: int) -> None:
        """Add to `images`."""
        self._set(_IMAGES, self.images + images)

    def clear(self) -> None:
        """Forget the process. For the parent, when it has ended."""
        for field in (_PID, _WORKING, _LOADING):
            self._set(field, 0)

    def _begin(self) -> None:
        if self._pulse is None or self.pid != os.getpid():
            self._set(_LOADING, 0)
            self._set(_PID, os.getpid())
            self._pulse = threading.Thread(target=self._beat, name="pulse", daemon=True)
            self._pulse.start()

    def _beat(self) -> None:
        while True:
            self._set(_PULSE, self.pulse + 1)
            time.sleep(PULSE_SECONDS)

    def _get(self, field: int) -> int:
        value: int = struct.unpack_from("<q", self._memory, self._at + field)[0]
        return value

    def _set(self, field: int, value: int) -> None:
        struct.pack_into("<q", self._memory, self._at + field, value)
