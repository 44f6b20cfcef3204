"""The thread in every engine child that finds work for which no message arrived.

Messages may be lost, the broker may hang, and the pool's own pipes may be out of order: whatever happens to them, a
child that has nothing in hand looks into the database itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from jobs.db.queries import batches, jobs, listings, training_runs
from jobs.errors import DatabaseError
from workers import logs
from workers.runtime import Runtime
from workers.supervision.board import Board

__all__ = ["VERDICTS", "Seeker", "Work"]

logger = logging.getLogger(__name__)
SEEK_SECONDS = 2.0
PATIENCE = 4.0  # a message gets there sooner than this; with SEEK_SECONDS it must stay well under 10

VERDICTS = "verdicts"  # no queue of its own: whoever serves `control` gives those that are due

Work = Callable[[int], object]  # takes the id of a job or a run, or 0


class Seeker:
    """Between the tasks that messages start and this thread: one of the two works at a time.

    `work`: for each queue that this worker serves, and for VERDICTS, what does a piece of its work.
    """

    def __init__(self, runtime: Callable[[], Runtime], board: Board, *, slot: int, work: dict[str, Work]) -> None:
        self._runtime = runtime
        self._board = board
        self._slot = slot
        self._work = work
        self._turn = threading.Lock()
        self._waiting = 0  # tasks that wait for their turn: they go first
        self._rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seek", daemon=True)

    def start(self) -> None:
        """Take a place among the children and start the thread."""
        self._board.enter(self._slot)
        self._thread.start()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """For the main thread: take the turn, and work inside."""
        self._waiting += 1
        with self._turn:
            self._waiting -= 1
            self._board.busy(self._slot)
            try:
                yield
            finally:
                self._board.looked(self._slot)

    def finish(self) -> None:
        """Wait for the work in hand; nothing is begun any more."""
        self._stop.set()
        self._turn.acquire()

    def _run(self) -> None:
        while not self._stop.wait(SEEK_SECONDS):
            while not (self._stop.is_set() or self._board.closing or self._waiting) and self._seek():
                pass

    def _seek(self) -> bool:
        """Do one piece of work that is overdue; False when there is none, or a task is at work."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if self._stop.is_set():
                return False
            self._board.busy(self._slot)
            return any(self._overdue(queue, work) for queue, work in self._work.items())
        except DatabaseError as exc:
            logger.warning("looking for work waits: %s", exc)
            return False
        except Exception:
            logger.exception("looking for work failed; it continues in a moment")
            return False
        finally:
            self._board.looked(self._slot)
            self._turn.release()
            logs.unbind()

    def _overdue(self, queue: str, work: Work) -> bool:
        with self._runtime().database.read() as connection:
            found: Sequence[int]
            if queue == "classify":
                found = [0] * batches.sent_for(connection, patience=PATIENCE, limit=1)
            elif queue == "control":
                found = jobs.waiting_scans(connection, patience=PATIENCE)
            elif queue == VERDICTS:
                found = listings.due_jobs(connection)
            else:
                found = training_runs.waiting(connection, patience=PATIENCE)
        if not found:
            return False
        self._rounds += 1  # each in turn: the first may be one that cannot be done
        return bool(work(found[self._rounds % len(found)]))
