"""Deleting jobs: of any size, interrupted, and while others work with the same photos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from jobs import Client, Job, housekeeping
from jobs.db.database import bulk_insert
from jobs.db.queries import jobs
from jobs.db.tables import Base
from jobs.errors import JobNotFound
from tests.support.steps import complete, count
from workers.runtime import Runtime

Photos = Callable[..., Path]
Make = Callable[..., Runtime]


def fill(client: Client, job: Job, numbers: range) -> None:
    """Give an ended job, in place of its own, images with results, their contents named by numbers."""
    hashes = [hashlib.sha256(str(number).encode()).digest() for number in numbers]
    with client.database.write() as connection:
        version = connection.execute(text("SELECT version_id FROM jobs")).scalars().first()
        known = set(connection.execute(text("SELECT content_hash FROM predictions")).scalars())
        connection.execute(text("DELETE FROM images WHERE job_id = :job"), {"job": int(job.id)})
        columns = ("job_id", "ordinal", "path", "status", "crashes", "content_hash")
        rows = ((int(job.id), at, f"{at}.jpg", "ok", 0, content_hash) for at, content_hash in enumerate(hashes))
        bulk_insert(connection, Base.metadata.tables["images"], columns, rows)
        names = ("version_id", "content_hash", "label", "make", "model", "confidence", "decision", "probabilities")
        new = [one for one in hashes if one not in {bytes(content_hash) for content_hash in known}]
        found = ((version, one, "x", "x", "x", 0.5, "model", b"0", "2026-01-01 00:00:00") for one in new)
        bulk_insert(connection, Base.metadata.tables["predictions"], (*names, "created_at"), found)
        connection.execute(
            text("UPDATE jobs SET total = :n, ok = :n WHERE id = :job"), {"n": len(hashes), "job": int(job.id)}
        )


@pytest.fixture
def ended(client: Client, runtime: Make, photos: Photos) -> Callable[[], Job]:
    """`ended()`: a job that has ended, with images without a content."""
    worker, folder = runtime(), photos(1)

    def make() -> Job:
        job = client.submit(str(folder))
        complete(job, worker)
        return job

    return make


def test_a_large_job_goes_whole(client: Client, ended: Callable[[], Job]) -> None:
    """More than a list in a statement holds; what another job shares with it stays."""
    large, other = ended(), ended()
    fill(client, large, range(30_000))
    fill(client, other, range(29_000, 31_000))
    large.delete()
    assert (count(client, "images"), count(client, "batches")) == (2_000, 1)
    with client.database.read() as connection:
        kept = "SELECT count(*) FROM predictions JOIN images ON images.content_hash = predictions.content_hash"
        assert connection.execute(text(kept)).scalar_one() == 2_000
    assert client.prune(timedelta(0)) == {"jobs": 1, "predictions": 2_001}  # one is of the photo that is gone
    assert (count(client, "images"), count(client, "predictions")) == (0, 0)


def test_a_deletion_that_was_interrupted_is_honest_and_can_be_finished(
    client: Client, ended: Callable[[], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended()
    fill(client, job, range(10))
    monkeypatch.setattr(housekeeping, "FIRST_ROWS", 4)
    monkeypatch.setattr(housekeeping, "MOST_ROWS", 4)
    delete = jobs.delete_images

    def fail_later(*args: Any, after: int, **options: Any) -> int | None:
        if after > 0:
            raise RuntimeError("the power went out")
        return delete(*args, after=after, **options)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "delete_images", fail_later)
        with pytest.raises(RuntimeError, match="power"):
            job.delete()
    status = job.status()
    assert (status.total, status.ok, status.pending, status.state) == (6, 6, 0, "completed")
    assert count(client, "images") == 6
    job.delete()
    with pytest.raises(JobNotFound):
        job.status()
    assert client.prune(timedelta(days=1))["predictions"] == 5  # what the interruption left, and the first photo's
    assert (count(client, "images"), count(client, "predictions")) == (0, 0)


def test_what_is_taken_into_use_during_a_deletion_stays(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job classifies the same photos after the deletion has looked, and before it deletes."""
    worker, folder = runtime(), photos(3)
    first = client.submit(str(folder))
    complete(first, worker)
    second = client.submit(str(folder))
    delete = housekeeping.delete_predictions

    def classify_first(*args: Any, **options: Any) -> int:
        assert complete(second, worker).cached == 3
        return delete(*args, **options)

    monkeypatch.setattr(housekeeping, "delete_predictions", classify_first)
    first.delete()
    assert len([result for result in second.results() if result.label]) == 3


def test_a_dry_run_deletes_nothing(client: Client, ended: Callable[[], Job]) -> None:
    old, new = ended(), ended()
    fill(client, old, range(5))
    fill(client, new, range(3, 8))
    with client.database.write() as connection:
        at = "2020-01-01 00:00:00.000000" + ("" if client.database.sqlite else "+00")
        connection.execute(text("UPDATE jobs SET finished_at = :at WHERE id = :job"), {"at": at, "job": int(old.id)})
    before = [count(client, table) for table in ("jobs", "images", "predictions")]
    announced = client.prune(timedelta(days=1), dry_run=True)
    assert [count(client, table) for table in ("jobs", "images", "predictions")] == before
    assert announced == {"jobs": 1, "predictions": 4} == client.prune(timedelta(days=1))
