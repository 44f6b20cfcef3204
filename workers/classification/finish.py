"""The end of a job."""

from __future__ import annotations

import logging

from jobs.db.queries import jobs
from workers.runtime import Runtime

__all__ = ["finish_job"]

logger = logging.getLogger(__name__)


def finish_job(runtime: Runtime, job_id: int) -> None:
    """Give the job its final state if every image is accounted for; harmless at any other time."""
    with runtime.database.write() as connection:
        ended = jobs.finish(connection, job_id)
        row = jobs.get(connection, job_id) if ended else None
    if row is not None:
        logger.info(
            "job %d %s: %d ok, %d failed, %d cached",
            *(job_id, row.state, row.ok, row.failed, row.cached),
            extra={"job": job_id, "images": row.total},
        )
