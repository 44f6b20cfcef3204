"""The end of a job."""

from __future__ import annotations

from jobs.db.queries import jobs, listings
from jobs.queues import FINISH_JOB, TIDY_SCHEDULE
from workers import events
from workers.classification.verdicts import sweep
from workers.runtime import Runtime

__all__ = ["end_job", "finish_job"]


def finish_job(runtime: Runtime, job_id: int) -> None:
    """Give the verdicts that are due and the job its final state if every image is accounted for; harmless at any other
    time.
    """
    with runtime.database.read() as connection:
        due = listings.any_due(connection, job_id) and job_id in listings.due_jobs(connection)
    if due and not sweep(runtime, job_id):
        runtime.notify(FINISH_JOB, job_id)
        return
    end_job(runtime, job_id)


def end_job(runtime: Runtime, job_id: int) -> None:
    """Give the job its final state if every image is accounted for and no verdict is due."""
    with runtime.database.write() as connection:
        ended = jobs.finish(connection, job_id)
        row = jobs.get(connection, job_id) if ended else None
    if row is None:
        return
    events.publish(events.JobFinished.of(row))
    if row.schedule_id is not None:
        runtime.notify(TIDY_SCHEDULE, row.schedule_id)
