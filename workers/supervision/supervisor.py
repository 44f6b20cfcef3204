"""The parent monitors its children and itself: a process that does nothing while there is work is replaced.

Nothing else restarts a worker. Its children find work by themselves (`workers.recovery.seeking`), so one that has
nothing in hand and has not looked for a long time is of no use any more, whatever the reason.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from jobs.db.database import Database
from jobs.db.queries import batches, jobs, training_runs
from workers.supervision.board import Board
from workers.supervision.pool import kill

__all__ = ["OpenWork", "Supervisor", "is_alive", "reap", "run_again"]

logger = logging.getLogger(__name__)
PATIENCE = 10.0
START_SECONDS = 60.0  # how long a child may take until it looks for work, on a machine that is busy
ENDING_SECONDS = 10.0  # after the work in hand is done, a worker that is to end has so long for it
MAX_KILLS = 2  # children in a row that did nothing: then it is the parent that is out of order


class OpenWork:
    """What the database says of a worker's work."""

    def __init__(self, database: Database, *, identity: str, queues: Sequence[str]) -> None:
        self._database = database
        self._prefix = f"{identity}:"
        self._queues = queues

    def is_overdue(self) -> bool:
        """Return whether there is work in these queues that no process has begun for a while."""
        with self._database.read() as connection:
            return bool(
                ("classify" in self._queues and batches.sent_for(connection, patience=PATIENCE, limit=1))
                or ("control" in self._queues and jobs.waiting_scans(connection, patience=PATIENCE))
                or ("train" in self._queues and training_runs.waiting(connection, patience=PATIENCE))
            )

    def lease_holders(self) -> set[int]:
        """Return the pids of this worker's processes that have a lease."""
        with self._database.read() as connection:
            owners = {owner for _, _, owner in batches.leased_by(connection, self._prefix)}
            owners |= set(jobs.scanning_owners(connection, self._prefix))
            owners |= {owner for _, owner in training_runs.leased_by(connection, self._prefix)}
        return {int(owner.removeprefix(self._prefix)) for owner in owners}


class Supervisor:
    """Called at every tick of the recovery thread.

    `pool`: the pids of the processes that the pool has now. `start_anew` replaces this process,
    or ends it where it is to end.
    """

    def __init__(
        self,
        board: Board,
        work: OpenWork,
        *,
        concurrency: int,
        stall_seconds: float,
        pool: Callable[[], Sequence[int]],
        start_anew: Callable[[], object],
    ) -> None:
        self._board = board
        self._work = work
        self._stall_seconds = stall_seconds
        self._concurrency = concurrency
        self._pool = pool
        self._start_anew = start_anew
        self._seen: dict[int, float] = {}  # pid: when it was seen first
        self._full_at = time.monotonic()  # when the pool had all of its children
        self._killed_at = float("-inf")
        self._kills = 0
        self._ending_since: float | None = None

    def check(self) -> None:
        """Replace a child that does nothing while there is work that is overdue, or else this process.

        Raises DatabaseError.
        """
        now = time.monotonic()
        pids = [pid for pid in self._pool() if is_alive(pid)]
        self._seen = {pid: self._seen.get(pid, now) for pid in pids}
        if len(pids) >= self._concurrency:
            self._full_at = now
        useless, doubtful = self._useless(now)
        missing = now - self._full_at > PATIENCE
        if not ((useless or doubtful or missing) and self._work.is_overdue()):
            if now - self._killed_at > 3 * PATIENCE:
                self._kills = 0
            return
        if doubtful:
            holders = self._work.lease_holders()
            useless += [pid for pid in doubtful if pid not in holders]
        if missing or (useless and self._kills >= MAX_KILLS * self._concurrency):
            logger.error("there is work, and no process comes up that takes it: this worker starts anew")
            self._start_anew()
        for pid in useless:
            logger.error("there is work, and process %d does not do it: it is replaced", pid)
            self._kills += 1
            self._killed_at = now
        kill(useless)

    def _useless(self, now: float) -> tuple[list[int], list[int]]:
        """Return the pids of children that do nothing, and of those that do one thing for so long that it needs a
        lease.
        """
        records = {child.pid: child for child in self._board.children()}
        idle, doubtful = [], []
        for pid, seen_at in self._seen.items():
            child = records.get(pid)
            if child is None:
                idle += [pid] if now - seen_at > START_SECONDS else []
            elif child.busy_since:
                doubtful += [pid] if now - child.busy_since > self._stall_seconds else []
            elif now - child.looked_at > PATIENCE:
                idle.append(pid)
        return idle, doubtful

    def ending(self) -> None:
        """For a worker that is to end: end the children, then this process, where they do not do so by themselves."""
        now = time.monotonic()
        pids = {pid for pid in self._pool() if is_alive(pid)}
        busy = any(child.busy_since for child in self._board.children() if child.pid in pids)
        if self._ending_since is None or busy:
            self._ending_since = now
        if now - self._ending_since > ENDING_SECONDS:
            kill(pids)
        if now - self._ending_since > 2 * ENDING_SECONDS:
            logger.error("this worker does not end by itself")
            self._start_anew()


def is_alive(pid: int) -> bool:
    """Return whether the process runs; one that has ended and was not reaped yet does not."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except ProcessLookupError:
        return False
    except OSError:  # no /proc on this system: the signal got through
        return True


def reap(pids: Sequence[int]) -> None:
    """Wait for children that have been killed."""
    for pid in pids:
        with suppress(ChildProcessError):  # the pool was quicker
            os.waitpid(pid, 0)


def run_again() -> NoReturn:
    """Start this program anew in this process, with the same arguments."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
