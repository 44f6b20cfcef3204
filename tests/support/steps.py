"""A worker's steps, taken by hand in the test's own process, and what they left in the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import text

from jobs import Client, Job, TrainingRun
from jobs.db.database import Database
from jobs.db.queries import batches
from jobs.records import JobStatus
from workers.classification.classify import classify_batch
from workers.classification.scan import scan_job
from workers.recovery.thread import recover
from workers.runtime import Runtime

__all__ = ["check_honest", "claim", "complete", "count", "drain", "listed", "states", "version_of", "versions"]


def listed(client: Client, worker: Runtime, folder: Path, **options: Any) -> Job:
    """Submit a folder, scan it and return the job."""
    job = client.submit(str(folder), **options)
    scan_job(worker, int(job.id))
    return job


def drain(worker: Runtime) -> None:
    """Classify until nothing is left, with a worker's recovery in between."""
    while classify_batch(worker):
        pass
    recover(worker, idle=True)  # fills windows that are empty: of reclaimed batches, for example
    while classify_batch(worker):
        recover(worker, idle=True)


def complete(job: Job, runtime: Runtime) -> JobStatus:
    """Scan and classify the job as a worker would, and return its status."""
    scan_job(runtime, int(job.id))
    while classify_batch(runtime):
        pass
    return job.status()


def claim(database: Database, owner: str = "a:1", seconds: float = 60) -> batches.Claim:
    """Claim the next batch as a worker of this name."""
    with database.write() as connection:
        claimed = batches.claim(connection, owner=owner, seconds=seconds)
    assert claimed is not None
    return claimed


def states(client: Client, job: Job) -> dict[str, int]:
    """Return the number of the job's batches in each state."""
    with client.database.read() as connection:
        found = connection.execute(
            text("SELECT state, count(*) FROM batches WHERE job_id = :id GROUP BY state"), {"id": int(job.id)}
        )
        return dict(found.all())


def count(client: Client, table: str) -> int:
    """Return the number of rows in a table."""
    with client.database.read() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")))


def check_honest(client: Client, job: Job) -> JobStatus:
    """Check the job's counters against its images and that each has its prediction; return the status."""
    with client.database.read() as connection:
        rows = connection.execute(
            text("SELECT status, count(*) FROM images WHERE job_id = :id GROUP BY status"), {"id": int(job.id)}
        )
        found: dict[str, int] = dict(rows.all())
    status = job.status()
    assert {name: getattr(status, name) for name in ("ok", "failed", "canceled", "pending")} == {
        name: found.get(name, 0) for name in ("ok", "failed", "canceled", "pending")
    }
    assert sum(found.values()) == status.total
    assert all(result.label for result in job.results(status="ok"))
    check_outcomes(client, job, status)
    return status


def check_outcomes(client: Client, job: Job, status: JobStatus) -> None:
    """Check that every finished image of the job has one outcome, with what its row says, and that totals agree."""
    same = "outcomes.job_id = images.job_id AND outcomes.ordinal = images.ordinal"
    agree = (
        "outcomes.error_code IS NOT DISTINCT FROM images.error_code "
        "AND (images.status = 'ok') = (outcomes.decision IS NOT NULL AND outcomes.class_id IS NOT NULL)"
    )
    queries = {
        "agreeing": f"SELECT count(*) FROM outcomes JOIN images ON {same} WHERE images.job_id = :id AND {agree}",
        "outcomes": "SELECT count(*) FROM outcomes WHERE job_id = :id",
        "totals": "SELECT coalesce(sum(images), 0) FROM totals WHERE job_id = :id",
        "failed": "SELECT coalesce(sum(images), 0) FROM totals WHERE job_id = :id AND class_id = 0",
    }
    with client.database.read() as connection:
        found = {name: int(connection.scalar(text(query), {"id": int(job.id)})) for name, query in queries.items()}
    finished = status.ok + status.failed
    assert found == {"agreeing": finished, "outcomes": finished, "totals": finished, "failed": status.failed}


def version_of(run: TrainingRun) -> str:
    """Return the name of the model version that a training run made."""
    name = run.status().model_version
    assert name is not None
    return name


def versions(client: Client) -> set[str]:
    """Return the names of the model versions that are registered."""
    return {row.name for row in client.models()}
