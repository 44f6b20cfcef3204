"""Celery's prefork pool, with what a child that is killed leaves behind made harmless."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from billiard.pool import Pool
from celery.concurrency import prefork

__all__ = ["ProcessLock", "TaskPool", "kill"]


class ProcessLock:
    """A lock between processes that is released when its holder ends.

    A child that waits for its next task does so holding the lock of the queue. That lock is a semaphore as the pool
    makes it, and after `kill -9` no other child would ever get it. The kernel takes a lock on a file back.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the lock is there

    def acquire(self, block: bool = True) -> bool:
        """Lock; return False where that would have to wait and `block` is not set."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX if block else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Unlock."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_exc: object) -> None:
        self.release()


class _BlockingPool(Pool):
    """The pool of the in-process broker: its children share one queue in each direction."""

    def _setup_queues(self) -> None:
        super()._setup_queues()
        for queue in (self._inqueue, self._outqueue):
            queue._rlock, queue._wlock = ProcessLock(), ProcessLock()  # noqa: SLF001 - the locks are what is replaced


class TaskPool(prefork.TaskPool):
    """What `worker_pool` names."""

    BlockingPool = _BlockingPool

    def on_terminate(self) -> None:
        """Children ignore the SIGTERM that the pool would end them with."""
        if self._pool is not None:
            kill(child.pid for child in self._pool._pool)  # noqa: SLF001 - billiard has no public list
        super().on_terminate()

    def terminate_job(self, pid: int, _signal: Any = None) -> None:
        """Kill a child: it ignores SIGTERM."""
        kill([pid])


def kill(pids: Iterable[int | None]) -> None:
    """SIGKILL to each; those that are gone are left alone."""
    for pid in pids:
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
