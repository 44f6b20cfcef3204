"""Batches that cannot be done: who is at fault, what is released, what waits, and what is given up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from jobs import Client
from jobs.db.queries import batches
from jobs.job import Job
from jobs.records import WorkerStatus
from tests.support.engines import ScriptedEngine
from tests.support.steps import check_honest, claim, drain, listed, states
from workers.classification.classify import classify_batch
from workers.classification.scan import scan_job
from workers.recovery.thread import recover
from workers.runtime import Runtime
from workers.supervision.children import ChildMonitor
from workers.supervision.shared_memory import Shared

Make = Callable[..., Runtime]
Photos = Callable[..., Path]
Fault = Callable[[np.ndarray], None]


@pytest.fixture
def engine_does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """`engine_does(fault)`: every engine calls it with its images first."""
    logits = ScriptedEngine.logits

    def replace(fault: Fault) -> None:
        def faulty(self: ScriptedEngine, images: np.ndarray) -> np.ndarray:
            fault(images)
            return logits(self, images)

        monkeypatch.setattr(ScriptedEngine, "logits", faulty)

    return replace


@pytest.fixture
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is not tried again for the rest of the test."""
    for module in ("workers.backoff", "jobs.db.queries.batches"):
        monkeypatch.setattr(f"{module}.pause", lambda _waited: 600.0)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed may be tried again at once."""
    monkeypatch.setattr("workers.backoff.pause", lambda _waited: -1.0)


def raise_on(red: int) -> Fault:
    """Raises on an image whose middle is so red."""

    def fault(images: np.ndarray) -> None:
        if (images[:, 8, 8, 0] == red).any():
            raise RuntimeError("the odd one\0")

    return fault


def color(file: Path, red: int) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), (red, 0, 0)).save(file)


def test_an_image_that_the_engine_fails_on_fails_alone(
    client: Client, runtime: Make, tmp_path: Path, engine_does: Callable[[Fault], None]
) -> None:
    folder = tmp_path / "reds"
    folder.mkdir()
    for red in range(10):
        color(folder / f"{red}.png", red=5 * red)
    engine_does(raise_on(15))
    worker = runtime(batch_size=8)
    job = listed(client, worker, folder)
    seen = []
    for _ in range(40):
        if not classify_batch(worker):
            recover(worker, idle=True)
        seen.append(check_honest(client, job))
    status = seen[-1]
    assert (status.state, status.ok, status.failed) == ("completed_with_errors", 9, 1)
    (error,) = job.errors()
    assert (error.path, error.code) == ("3.png", "engine_error")
    assert error.message == "the engine fails on this image: RuntimeError: the odd one"
    assert worker.shared.broken is None
    assert [one.ok for one in seen] == sorted(one.ok for one in seen)


def test_an_engine_that_fails_on_everything_breaks_its_worker(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch, engine_does: Callable[[Fault], None]
) -> None:
    def fault(_images: np.ndarray) -> None:
        raise RuntimeError("CUDA error")

    engine_does(fault)
    worker, healthy = runtime(batch_size=2), runtime("b")
    job = listed(client, worker, photos(4, 16))
    assert classify_batch(worker)
    assert "CUDA error" in (worker.shared.broken or "")
    assert worker.engine_failed
    assert states(client, job) == {"sent": 2}
    assert not classify_batch(worker)  # it takes no more
    assert "CUDA error" in (check_honest(client, job).waiting or "")
    monkeypatch.undo()
    drain(healthy)
    status = check_honest(client, job)
    assert (status.state, status.ok, status.waiting) == ("completed", 4, None)


def test_a_pinned_version_that_cannot_be_loaded_makes_its_job_wait(
    client: Client, runtime: Make, photos: Photos, publish: Callable[..., str], no_pause: None
) -> None:
    worker = runtime(batch_size=2)
    pinned = publish("pinned")
    job = listed(client, worker, photos(4, 16), model=pinned)
    other = listed(client, worker, photos(3, 16, Path(photos(0)).parent / "other"))
    for file in (Path(worker.settings.model_store) / pinned).rglob("model.onnx"):
        before = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(b"other bytes")
    for _ in range(12):
        classify_batch(worker)
    assert worker.shared.broken is None
    assert check_honest(client, other).state == "completed"
    status = check_honest(client, job)
    assert (status.state, status.pending) == ("running", 4)
    assert "model version pinned cannot be used" in (status.waiting or "")
    file.write_bytes(before)
    drain(worker)
    status = check_honest(client, job)
    assert (status.state, status.ok, status.waiting) == ("completed", 4, None)


def test_files_of_a_source_that_is_away_have_not_vanished(
    client: Client, runtime: Make, photos: Photos, no_pause: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder goes in the midst of a batch: deleted, as far as what is open can tell."""
    worker = runtime(batch_size=8)
    folder = photos(8, 16)
    job = listed(client, worker, folder)
    kept = folder.parent / "kept"
    opened = worker.sources.open

    def open_then_lose(source: str) -> Any:
        monkeypatch.setattr(worker.sources, "open", opened)
        context = opened(source)
        shutil.copytree(folder, kept)
        entered = context.__enter__()
        shutil.rmtree(folder)
        return _Entered(entered, context)

    monkeypatch.setattr(worker.sources, "open", open_then_lose)
    assert classify_batch(worker)
    status = check_honest(client, job)
    assert (status.pending, status.failed) == (8, 0)
    assert "does not exist" in (status.waiting or "")
    kept.rename(folder)
    (folder / "000003.jpg").unlink()
    drain(worker)
    status = check_honest(client, job)
    assert (status.state, status.ok, status.failed) == ("completed_with_errors", 7, 1)
    assert [error.code for error in job.errors()] == ["vanished"]


class _Entered:
    def __init__(self, source: Any, context: Any) -> None:
        self.source, self.context = source, context

    def __enter__(self) -> Any:
        return self.source

    def __exit__(self, *args: object) -> None:
        self.context.__exit__(*args)


def test_a_worker_that_may_not_read_leaves_the_job_to_others(
    client: Client, runtime: Make, photos: Photos, tmp_path: Path, long_pause: None
) -> None:
    worker, other = runtime(batch_size=2), runtime("b", source_roots=(str(tmp_path / "elsewhere"),))
    job = listed(client, worker, photos(8, 16))
    assert classify_batch(other)
    assert not classify_batch(other)  # it leaves the job alone for a while
    status = check_honest(client, job)
    assert (status.state, "outside what workers may read" in (status.waiting or "")) == ("running", True)
    claimed = claim(client.database, "c:1")
    with client.database.write() as connection:
        connection.execute(text("UPDATE jobs SET waiting = NULL, waiting_since = NULL"))
    other.backoff.worked(int(job.id))
    assert classify_batch(other)
    assert job.status().waiting is None  # a worker has a batch of it
    with client.database.write() as connection:
        assert batches.release(connection, claimed)
    drain(worker)
    assert check_honest(client, job).ok == 8


def test_a_source_that_cannot_be_listed_is_waited_for(
    client: Client, runtime: Make, photos: Photos, no_pause: None
) -> None:
    worker = runtime()
    folder = photos(3, 16)
    job = client.submit(str(folder))
    away = folder.rename(folder.parent / "away")
    for _ in range(6):
        scan_job(worker, int(job.id))
    status = check_honest(client, job)
    assert (status.state, str(folder) in (status.waiting or "")) == ("running", True)
    away.rename(folder)
    scan_job(worker, int(job.id))
    drain(worker)
    status = check_honest(client, job)
    assert (status.state, status.ok, status.waiting) == ("completed", 3, None)


def test_a_job_that_waits_for_too_long_is_given_up(
    client: Client, runtime: Make, photos: Photos, no_pause: None
) -> None:
    worker = runtime(batch_size=2, give_up="1h")
    folder = photos(6, 16)
    job = listed(client, worker, folder)
    assert classify_batch(worker)
    away = folder.rename(folder.parent / "away")
    assert classify_batch(worker)
    recover(worker, idle=True)
    assert job.status().state == "running"
    with client.database.write() as connection:
        connection.execute(text("UPDATE jobs SET waiting_since = '2020-01-01 00:00:00'"))
    recover(worker, idle=True)
    status = check_honest(client, job)
    assert (status.state, status.ok, status.canceled, status.waiting) == ("failed", 2, 4, None)
    assert status.error is not None
    assert status.error.startswith("given up after 1 h 0 min: ")
    away.rename(folder)
    status = job.retry()
    assert (status.state, status.pending, status.canceled, status.error) == ("running", 4, 0, None)
    drain(worker)
    assert (check_honest(client, job).state, job.status().ok) == ("completed", 6)


def test_a_process_that_crashes_while_loading_has_read_nothing(
    client: Client, runtime: Make, photos: Photos, long_pause: None
) -> None:
    worker = runtime(batch_size=4)
    job = listed(client, worker, photos(8, 16))
    for _ in range(5):
        dead = claim(client.database, "a:dead")
        with client.database.write() as connection:
            batches.set_loading(connection, dead, True)
            assert batches.reclaim(connection, dead.id, job_id=dead.job_id, owner="a:dead") == 0
        assert not classify_batch(worker)  # the job is left alone for a moment
        assert states(client, job) == {"sent": 2}
        with client.database.write() as connection:
            connection.execute(text("UPDATE batches SET sent_at = '2020-01-01 00:00:00'"))
    assert "crashed while it loaded" in (job.status().waiting or "")
    with client.database.read() as connection:
        assert connection.scalar(text("SELECT max(crashes) FROM images")) == 0
    drain(worker)
    assert (check_honest(client, job).state, job.status().ok) == ("completed", 8)


@pytest.mark.parametrize("listed_so_far", ["nothing", "a part", "all"])
def test_retry_of_a_canceled_job(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch, listed_so_far: str
) -> None:
    from workers.classification import scan

    monkeypatch.setattr(scan, "CHUNK", 4)
    worker = runtime(batch_size=2)
    folder = photos(12, 16)
    job = client.submit(str(folder))
    if listed_so_far == "a part":
        monkeypatch.setattr(scan, "SLICE_SECONDS", -1.0)
    if listed_so_far != "nothing":
        scan_job(worker, int(job.id))
        assert classify_batch(worker)
    before = job.cancel()
    again = job.retry()
    assert (again.state, again.ok, again.canceled) == ("running", before.ok, 0)
    check_honest(client, job)
    while job.status().total < 12:
        scan_job(worker, int(job.id))
    drain(worker)
    scan_job(worker, int(job.id))
    status = check_honest(client, job)
    assert (status.state, status.ok, status.total) == ("completed", 12, 12)
    assert job.retry() == status  # nothing to do


def test_a_worker_row_says_what_it_does(client: Client, runtime: Make, photos: Photos) -> None:
    from jobs.db.queries import workers

    worker = runtime("w" * 36, batch_size=2)
    job = listed(client, worker, photos(2, 16))
    monitor = ChildMonitor(Shared(), worker.settings)
    row = {
        "id": worker.identity,
        "host": "h",
        "pid": os.getpid(),
        "queues": "control,classify",
        "concurrency": 1,
        "device": "cpu",
        "release": "1",
    }

    def beat(shared: Shared) -> WorkerStatus:
        monitor._shared = shared
        with client.database.write() as connection:
            workers.heartbeat(connection, {**row, **monitor.row()})
        (found,) = client.workers()
        return found

    assert beat(worker.shared).state == "idle"
    claimed = claim(client.database, f"{worker.identity}:1")
    assert beat(worker.shared).state == f"job {job.id}, batch {claimed.id}"
    worker.shared.broken = "no\nGPU"
    assert beat(worker.shared).state == "broken: no GPU"
    with client.database.read() as connection:
        assert workers.classifiers(connection) == 0
    worker.shared.broken = None
    assert beat(worker.shared).state == f"job {job.id}, batch {claimed.id}"
    with client.database.read() as connection:
        assert workers.classifiers(connection) == 1


def test_the_jobs_counters_after_a_retry_of_many(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=3)
    folder = photos(9, 16)
    (folder / "000002.jpg").write_bytes(b"no photo")
    job: Job = listed(client, worker, folder)
    assert classify_batch(worker)
    before = job.cancel()
    assert (before.ok, before.failed, before.canceled) == (2, 1, 6)
    shutil.copy(folder / "000001.jpg", folder / "000002.jpg")
    again = job.retry()
    assert (again.ok, again.pending, again.failed) == (2, 7, 0)
    drain(worker)
    assert (check_honest(client, job).state, job.status().ok) == ("completed", 9)
