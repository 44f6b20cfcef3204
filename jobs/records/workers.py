"""Records of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from jobs.records.base import Record, Selected

__all__ = ["WorkerStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus(Record):
    """A worker that was seen in the last week, and what its processes do; alive while its heartbeat is fresh."""

    id: str
    host: str
    pid: int
    queues: list[str]
    concurrency: int
    device: str
    release: str
    state: str
    images_per_second: float | None
    last_seen_seconds: float
    alive: bool

    @property
    def broken(self) -> bool:
        """Whether it takes no batches, for the reason that `state` gives."""
        return self.state.startswith("broken")

    @property
    def takes_batches(self) -> bool:
        """Whether it is alive, classifies and is not broken."""
        return self.alive and "classify" in self.queues and not self.broken

    @property
    def trains(self) -> bool:
        """Whether it is alive and takes training runs."""
        return self.alive and "train" in self.queues

    @classmethod
    def from_row(cls, row: Selected, *, work: Sequence[str]) -> Self:
        """Make one of a row of `queries.workers.page`; `work` is what its processes do."""
        age = max((row.now - row.seen_at).total_seconds(), 0.0)
        return cls(
            id=row.id,
            host=row.host,
            pid=row.pid,
            queues=row.queues.split(","),
            concurrency=row.concurrency,
            device=row.device,
            release=row.release,
            state=f"broken: {row.broken}" if row.broken is not None else "; ".join(work) or "idle",
            images_per_second=row.images_per_second,
            last_seen_seconds=round(age, 1),
            alive=row.alive,
        )
