"""Listing a source: in slices, killed and resumed, raced for, and always each file once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from jobs import Client
from jobs.db.queries import images
from jobs.errors import DatabaseUnavailable
from jobs.job import Job
from jobs.queues import CLASSIFY_BATCH, SCAN_JOB
from workers.classification import scan
from workers.classification.classify import classify_batch
from workers.classification.scan import scan_job
from workers.recovery.thread import recover
from workers.runtime import Runtime

Make = Callable[..., Runtime]
Photos = Callable[..., Path]


class Killed(BaseException):
    """The process is gone: nothing after this runs in it."""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four files a transaction."""
    monkeypatch.setattr(scan, "CHUNK", 4)


def free(client: Client) -> None:
    """Let the lease of a dead process run out."""
    with client.database.write() as connection:
        connection.execute(text("UPDATE jobs SET scan_expires_at = '2020-01-01 00:00:00'"))


def rows(client: Client, job: Job) -> list[tuple[int, str, str]]:
    with client.database.read() as connection:
        found = connection.execute(
            text("SELECT ordinal, path, status FROM images WHERE job_id = :id ORDER BY ordinal"), {"id": int(job.id)}
        )
        return [(ordinal, path, status) for ordinal, path, status in found]


def covered(client: Client, job: Job) -> list[int]:
    """The ordinals that batches cover, in order."""
    with client.database.read() as connection:
        found = connection.execute(
            text("SELECT first, last FROM batches WHERE job_id = :id ORDER BY first"), {"id": int(job.id)}
        )
        return [ordinal for first, last in found for ordinal in range(first, last + 1)]


def check_whole(client: Client, job: Job, names: list[str]) -> None:
    assert [(ordinal, path) for ordinal, path, _ in rows(client, job)] == list(enumerate(names))
    assert covered(client, job) == list(range(len(names)))
    assert job.status().total == len(names)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 12, 13])
def test_every_file_once_whatever_the_size(client: Client, runtime: Make, photos: Photos, count: int) -> None:
    worker = runtime(batch_size=2)
    folder = photos(count, 16)
    (folder / "notes.txt").write_text("no photo")
    job = client.submit(str(folder))
    scan_job(worker, int(job.id))
    check_whole(client, job, [f"{number:06}.jpg" for number in range(1, count + 1)])
    while classify_batch(worker):
        pass
    assert (job.status().state, job.status().ok) == ("completed", count)


def test_files_that_are_left_out_are_counted_by_suffix(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=2)
    folder = photos(9, 16)
    (folder / "0000015").write_bytes((folder / "000001.jpg").read_bytes())
    for name in ("000002.MP4", "000005.mp4", "000008.txt", "000009.jpg.part", "readme"):
        (folder / name).write_text("no photo")
    job = client.submit(str(folder))
    scan_job(worker, int(job.id))
    status = job.status()
    assert (status.total, status.skipped) == (10, 5)
    assert [(row.suffix, row.files) for row in job.skipped()] == [
        (".mp4", 2), (None, 1), (".part", 1), (".txt", 1)
    ]  # fmt: skip
    assert next(client.jobs()).skipped == 5


@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_scan_is_resumed(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch, chunks: int, when: str
) -> None:
    dying, other = runtime("a", batch_size=1), runtime("b", batch_size=1)
    folder = photos(14, 16)
    for number in (3, 9):
        (folder / f"{number:06}.txt").write_text("no photo")
    job = client.submit(str(folder))
    add = images.add
    done: list[bool] = []

    def add_until_killed(*args: Any, **kwargs: Any) -> bool:
        if len(done) == chunks and when == "before":
            raise Killed
        done.append(add(*args, **kwargs))
        return done[-1]

    notify = dying.notify

    def notify_until_killed(task: str, *numbers: int) -> bool:
        if len(done) == chunks and when == "after":
            raise Killed
        return notify(task, *numbers)

    monkeypatch.setattr(images, "add", add_until_killed)
    dying.notify = notify_until_killed
    try:
        scan_job(dying, int(job.id))
    except Killed:
        assert len(rows(client, job)) < 14
    monkeypatch.setattr(images, "add", add)
    before = rows(client, job)
    scan_job(other, int(job.id))
    assert rows(client, job) == before  # its lease is valid
    free(client)
    scan_job(other, int(job.id))
    check_whole(client, job, [f"{number:06}.jpg" for number in range(1, 15)])
    with client.database.read() as connection:
        assert connection.scalar(text("SELECT skipped FROM jobs")) == 2


def test_a_scan_that_lost_its_lease_adds_nothing(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = runtime("a", batch_size=1), runtime("b", batch_size=1)
    folder = photos(9, 16)
    job = client.submit(str(folder))
    add = images.add

    def overtaken(*args: Any, **kwargs: Any) -> bool:
        monkeypatch.setattr(images, "add", add)
        args[0].execute(text("UPDATE jobs SET scan_attempt = scan_attempt + 1"))
        return add(*args, **kwargs)

    monkeypatch.setattr(images, "add", overtaken)
    scan_job(slow, int(job.id))
    assert rows(client, job) == []
    free(client)
    scan_job(other, int(job.id))
    check_whole(client, job, [f"{number:06}.jpg" for number in range(1, 10)])
    assert SCAN_JOB not in [task for task, *_ in slow.notify.sent]  # type: ignore[attr-defined]  # the fixture's Notes


def test_slices(client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice whose time is up sends a message for the next one, and the listing continues where it was."""
    monkeypatch.setattr(scan, "SLICE_SECONDS", -1.0)
    worker = runtime(batch_size=1, window=1)
    job = client.submit(str(photos(10, 16)))
    totals: list[int] = []
    while (SCAN_JOB, int(job.id)) in worker.notify.sent or not totals:  # type: ignore[attr-defined]  # the fixture's Notes
        worker.notify.sent.clear()  # type: ignore[attr-defined]  # the fixture's Notes
        scan_job(worker, int(job.id))
        totals.append(job.status().total)
        assert job.status().state == "running"
    assert totals == [4, 8, 10]
    check_whole(client, job, [f"{number:06}.jpg" for number in range(1, 11)])


def test_work_begins_before_the_listing_ends(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "SLICE_SECONDS", -1.0)
    worker = runtime(batch_size=2)
    job = client.submit(str(photos(10, 16)))
    scan_job(worker, int(job.id))
    sent = [task for task, *_ in worker.notify.sent]  # type: ignore[attr-defined]  # the fixture's Notes
    assert sent[:2] == [CLASSIFY_BATCH] * 2
    while classify_batch(worker):
        pass
    status = job.status()
    assert (status.state, status.pending) == ("running", 0)  # more may come
    while job.status().total < 10:
        scan_job(worker, int(job.id))
    while classify_batch(worker):
        pass
    scan_job(worker, int(job.id))
    assert (job.status().state, job.status().ok) == ("completed", 10)


def test_what_is_not_a_photo_counts_as_failed_at_once(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=2)
    folder = photos(5, 16)
    os.mkfifo(folder / "000002a.jpg")
    (folder / "000003a.jpg").symlink_to("/etc/hostname")
    job = client.submit(str(folder))
    scan_job(worker, int(job.id))
    status = job.status()
    assert (status.total, status.failed, status.pending) == (7, 2, 5)
    assert [(e.path, e.code) for e in job.errors()] == [
        ("000002a.jpg", "unsupported"),
        ("000003a.jpg", "outside_source"),
    ]
    while classify_batch(worker):
        pass
    assert (job.status().state, job.status().ok) == ("completed_with_errors", 5)


def test_a_folder_of_nothing_but_errors_ends(client: Client, runtime: Make, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    job = client.submit(str(folder))
    scan_job(runtime(), int(job.id))
    assert (job.status().state, job.status().failed) == ("completed_with_errors", 1)


def test_a_folder_emptied_meanwhile_ends(client: Client, runtime: Make, photos: Photos) -> None:
    folder = photos(1, 16)
    job = client.submit(str(folder))
    (folder / "000001.jpg").unlink()
    scan_job(runtime(), int(job.id))
    assert (job.status().state, job.status().total) == ("completed", 0)


def test_a_job_canceled_in_mid_scan_grows_no_more(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "SLICE_SECONDS", -1.0)
    worker = runtime(batch_size=1)
    job = client.submit(str(photos(10, 16)))
    scan_job(worker, int(job.id))
    after = job.cancel()
    assert (after.total, after.canceled) == (4, 4)
    scan_job(worker, int(job.id))
    recover(worker, idle=True)
    assert job.status() == after


def test_the_database_away_in_mid_scan(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job waits for its scan's lease to run out; it does not fail."""
    worker = runtime(batch_size=1)
    job = client.submit(str(photos(6, 16)))
    add = images.add

    def away(*_args: Any, **_kwargs: Any) -> bool:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(images, "add", away)
    with pytest.raises(DatabaseUnavailable):
        scan_job(worker, int(job.id))
    monkeypatch.setattr(images, "add", add)
    assert job.status().state == "running"
    free(client)
    recover(worker, idle=True)
    scan_job(worker, int(job.id))
    check_whole(client, job, [f"{number:06}.jpg" for number in range(1, 7)])
