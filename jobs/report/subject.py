"""What a report needs of a job."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from jobs.records import JobStatus, Result

__all__ = ["ReportedJob"]


class ReportedJob(Protocol):
    """What a report needs of `jobs.job.Job`, which knows reports."""

    @property
    def id(self) -> str:
        """The job's id."""

    @property
    def number(self) -> int:
        """The id as the database has it."""

    def status(self) -> JobStatus:
        """Return how far it is."""

    def results(self, *, top_k: int) -> Iterable[Result]:
        """Return its results."""
