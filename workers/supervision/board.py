"""Memory that a worker's parent shares with its children: whether the worker is to end, and what each child does."""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import NamedTuple

__all__ = ["Board", "Child"]

_RECORD = struct.Struct("=qdd")
_SIZE = 2**16
_SLOTS = _SIZE // _RECORD.size - 1


class Child(NamedTuple):
    """One engine child. Times are of `time.monotonic`, which is one clock for all processes of a machine."""

    slot: int
    pid: int
    busy_since: float  # 0.0: it has nothing in hand
    looked_at: float  # when it last looked for work in the database, or ended some


class Board:
    """Made in the parent before it forks. A child writes its own record only, the parent the first byte only."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    def close_worker(self) -> None:
        """Tell the children that the worker is to end. Safe in a signal handler."""
        self._memory[0] = 1

    @property
    def closing(self) -> bool:
        """Whether the worker is to end."""
        return self._memory[0] == 1

    def enter(self, slot: int) -> None:
        """A child takes its place, which an earlier one may have had."""
        _RECORD.pack_into(self._memory, self._offset(slot), os.getpid(), 0.0, time.monotonic())

    def busy(self, slot: int) -> None:
        """Note that the child works from now on."""
        pid, _, looked_at = _RECORD.unpack_from(self._memory, self._offset(slot))
        _RECORD.pack_into(self._memory, self._offset(slot), pid, time.monotonic(), looked_at)

    def looked(self, slot: int) -> None:
        """The child has nothing in hand and knows, as of now, of nothing to do."""
        pid, _, _ = _RECORD.unpack_from(self._memory, self._offset(slot))
        _RECORD.pack_into(self._memory, self._offset(slot), pid, 0.0, time.monotonic())

    def children(self) -> list[Child]:
        """Return the record of every place that was ever taken; its process may have ended."""
        records = (Child(slot, *_RECORD.unpack_from(self._memory, self._offset(slot))) for slot in range(_SLOTS))
        return [child for child in records if child.pid]

    @staticmethod
    def _offset(slot: int) -> int:
        return _RECORD.size * (1 + slot % _SLOTS)
