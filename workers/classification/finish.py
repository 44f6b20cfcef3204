"""The end of a job."""

from __future__ import annotations

from jobs.db.queries import jobs
from jobs.queues import TIDY_SCHEDULE
from workers import events
from workers.runtime import Runtime

__all__ = ["finish_job"]


def finish_job(runtime: Runtime, job_id: int) -> None:
    """Give the job its final state if every image is accounted for; harmless at any other time."""
    with runtime.database.write() as connection:
        ended = jobs.finish(connection, job_id)
        row = jobs.get(connection, job_id) if ended else None
    if row is None:
        return
    events.publish(events.JobFinished.of(row))
    if row.schedule_id is not None:
        runtime.notify(TIDY_SCHEDULE, row.schedule_id)
