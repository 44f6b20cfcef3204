"""Jobs that this process cannot work on at present. Others may be able to, so nothing of it is in the database."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs.backoff import pause

__all__ = ["Backoff"]

REMEMBERED = 1_000


class Backoff:
    """Which jobs to leave alone until when. Safe in several threads as far as a dictionary is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failing: dict[int, tuple[float, float]] = {}  # when it began, and until when the job is left alone

    def failed(self, job_id: int) -> float:
        """Leave the job alone for a while, longer each time; returns for how many seconds."""
        now = self._clock()
        since, _ = self._failing.pop(job_id, (now, now))
        seconds = pause(now - since)
        self._failing[job_id] = (since, now + seconds)
        while len(self._failing) > REMEMBERED:  # the oldest: jobs that have ended, most likely
            del self._failing[next(iter(self._failing))]
        return seconds

    def worked(self, job_id: int) -> None:
        """The job can be worked on."""
        self._failing.pop(job_id, None)

    def blocked(self) -> list[int]:
        """Return the jobs to leave alone now."""
        now = self._clock()
        return [job_id for job_id, (_, until) in self._failing.items() if until > now]
