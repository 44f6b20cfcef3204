"""Making the jobs of schedules that are due, and deleting those that are too many. Any number of workers and beats may
do so at once.
"""

from __future__ import annotations

import logging

from jobs import housekeeping, schedules
from jobs.db.queries import schedules as rows
from jobs.errors import DatabaseError
from jobs.queues import SCAN_JOB
from workers.runtime import Runtime

__all__ = ["fire_schedules", "tidy_schedule"]

logger = logging.getLogger(__name__)


def fire_schedules(runtime: Runtime) -> None:
    """Fire what is due, by statements alone, and send a message for each new job."""
    with runtime.database.read() as connection:
        due = rows.due(connection)
    for schedule_id in due:
        try:
            _fire(runtime, schedule_id)
        except DatabaseError:
            raise
        except Exception:
            logger.exception("schedule %d cannot fire; tried again at the next tick", schedule_id)


def _fire(runtime: Runtime, schedule_id: int) -> None:
    with runtime.database.write() as connection:
        schedule = rows.lock_due(connection, schedule_id)
        if schedule is None:
            return
        job_id = schedules.fire(connection, schedule)
    if job_id is None:
        logger.warning("schedule %s is due and makes no job: `cars schedule show` says why", schedule.name)
        return
    logger.info("schedule %s: job %d", schedule.name, job_id, extra={"job": job_id})
    runtime.notify(SCAN_JOB, job_id)


def tidy_schedule(runtime: Runtime, schedule_id: int) -> None:
    """Delete the ended runs that a schedule does not keep; harmless at any time. What is interrupted continues after
    its next run.
    """
    with runtime.database.read() as connection:
        surplus = rows.surplus(connection, schedule_id)
    for job_id in surplus:
        if housekeeping.delete(runtime.database, job_id):
            logger.info("job %d is deleted: its schedule keeps no more", job_id, extra={"job": job_id})
