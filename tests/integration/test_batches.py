"""Batches without workers: who gets which, what a lost lease may still do, and what each way out leaves behind."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from jobs import Client
from jobs.db.queries import batches, images, predictions
from jobs.db.queries import jobs as job_queries
from jobs.states import ImageErrorCode, ImageFailure
from tests.support.engines import inferences
from tests.support.steps import check_honest, claim, drain, listed, states
from workers.classification.classify import classify_batch
from workers.recovery.thread import recover
from workers.runtime import Runtime

Make = Callable[..., Runtime]
Photos = Callable[..., Path]


def test_claims_by_priority_then_age(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=1)
    folder = photos(2, 16)
    jobs = [listed(client, worker, folder, priority=priority) for priority in ("low", "normal", "high", "normal")]
    order = [str(claim(client.database).job_id) for _ in range(8)]
    low, normal, high, later = (job.id for job in jobs)
    assert order == [high, high, normal, normal, later, later, low, low]
    assert not classify_batch(worker)


def test_a_job_keeps_its_window(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=2, window=3)
    job = listed(client, worker, photos(20, 16))
    assert states(client, job) == {"sent": 3, "waiting": 7}
    assert len(worker.notify.sent) == 3  # type: ignore[attr-defined]  # the fixture's Notes
    assert classify_batch(worker)
    assert states(client, job) == {"done": 1, "sent": 3, "waiting": 6}
    small = listed(client, worker, photos(2, 16, Path(job.status().source).parent / "small"))
    for _ in range(4):  # the window of the large one, and then the small one's turn
        classify_batch(worker)
    assert small.status().state == "completed"
    drain(worker)
    assert check_honest(client, job).state == "completed"


def test_counts_after_each_batch(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=3)
    folder = photos(7, 16)
    (folder / "000002.jpg").write_bytes(b"no photo")
    shutil.copy(folder / "000001.jpg", folder / "000009.jpg")
    job = listed(client, worker, folder)
    done = []
    while classify_batch(worker):
        status = check_honest(client, job)
        done.append(status.ok + status.failed)
    assert done == [3, 6, 8]
    assert (status.state, status.failed, status.cached) == ("completed_with_errors", 1, 1)


def test_a_stale_claim_can_do_nothing(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    job = listed(client, worker, photos(3, 16))
    stale = claim(client.database)
    with client.database.write() as connection:
        assert batches.release(connection, stale)
    assert claim(client.database, "b:1").attempt == stale.attempt + 1
    with client.database.write() as connection:
        assert not batches.renew(connection, stale, seconds=60)
        assert not batches.close(connection, stale)
        assert not batches.release(connection, stale._replace(attempt=99))
        assert not batches.release(connection, stale, waiting="x")
        assert not batches.narrow(connection, stale, error="x")
    assert job.status().waiting is None
    assert (job.status().state, states(client, job)) == ("running", {"leased": 1})


def test_a_worker_that_lost_its_lease_commits_nothing(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runtime()
    job = listed(client, worker, photos(3, 16))
    commit = worker.storage.commit

    def too_late(*args: Any, **options: Any) -> list[int]:
        with client.database.write() as connection:
            connection.execute(text("UPDATE batches SET expires_at = '2020-01-01 00:00:00'"))
        recover(worker, idle=False)  # somebody else reclaims the batch
        return commit(*args, **options)

    monkeypatch.setattr(worker.storage, "commit", too_late)
    assert classify_batch(worker)
    assert check_honest(client, job).pending == 3
    with client.database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM predictions")) == 0
    monkeypatch.undo()
    drain(worker)
    assert (check_honest(client, job).state, job.status().ok) == ("completed", 3)


def test_third_crash_gives_an_image_up(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=2)
    job = listed(client, worker, photos(2, 16))
    for crash in (1, 2, 3):
        dead = claim(client.database, "a:dead")
        assert (dead.first, dead.last) == ((0, 1) if crash == 1 else (0, 0))
        with client.database.write() as connection:
            crashed = batches.reclaim(connection, dead.id, job_id=dead.job_id, owner="a:dead")
        assert crashed == (1 if crash == 3 else 0)
        if crash == 2:
            assert classify_batch(worker)  # the other image of the lost batch is fine
        recover(worker, idle=False)
    status = check_honest(client, job)
    assert (status.state, status.ok, status.failed) == ("completed_with_errors", 1, 1)
    assert [(error.path, error.code) for error in job.errors()] == [("000001.jpg", "worker_crashed")]


def test_a_folder_that_was_replaced_is_opened_anew(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    folder = photos(2, 16)
    listed(client, worker, folder)
    drain(worker)
    shutil.rmtree(folder)
    photos(5, 16)
    job = listed(client, worker, folder)
    drain(worker)
    assert (job.status().total, job.status().ok) == (5, 5)


def test_cancel_voids_leases(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=2, window=2)
    job = listed(client, worker, photos(8, 16))
    assert classify_batch(worker)
    claimed = claim(client.database)
    after = job.cancel()
    assert (after.state, after.ok, after.canceled, after.pending) == ("canceled", 2, 6, 0)
    with client.database.write() as connection:
        assert not batches.renew(connection, claimed, seconds=60)
        assert not batches.close(connection, claimed)
        assert batches.reclaim(connection, claimed.id, job_id=claimed.job_id, owner="a:1") == 0
        assert not job_queries.count_up(connection, claimed.job_id, job_queries.Counts(ok=1))
    assert states(client, job) == {"done": 4}
    assert check_honest(client, job) == job.cancel() == after


def test_retry_of_failed_images(
    client: Client, runtime: Make, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "inferences"
    monkeypatch.setenv("ENGINE_LOG", str(log))
    worker = runtime(batch_size=3)
    folder = photos(9, 16)
    good = (folder / "000001.jpg").read_bytes()
    for number in (2, 3, 7):
        (folder / f"00000{number}.jpg").write_bytes(b"no photo")
    job = listed(client, worker, folder)
    drain(worker)
    assert (check_honest(client, job).failed, inferences(log)) == (3, 6)
    for number in (2, 7):
        (folder / f"00000{number}.jpg").write_bytes(good + bytes([number]))
    status = job.retry()
    assert (status.state, status.pending, status.failed, status.finished_at) == ("running", 3, 0, None)
    drain(worker)
    status = check_honest(client, job)
    assert (status.state, status.ok, status.failed) == ("completed_with_errors", 8, 1)
    assert inferences(log) == 8


def test_expired_leases_come_back_as_single_images(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=4, window=2)
    job = listed(client, worker, photos(4, 16))
    claim(client.database, "elsewhere:1", seconds=-1)
    recover(worker, idle=False)
    assert states(client, job) == {"done": 1, "sent": 2, "waiting": 2}
    sizes = [claimed.last - claimed.first for claimed in (claim(client.database), claim(client.database))]
    assert sizes == [0, 0]


def test_a_live_lease_stays(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime()
    job = listed(client, worker, photos(4, 16))
    claimed = claim(client.database, "elsewhere:1")
    recover(worker, idle=True)
    with client.database.write() as connection:
        assert batches.reclaim(connection, claimed.id, job_id=claimed.job_id) == 0
        assert batches.reclaim(connection, claimed.id, job_id=claimed.job_id, owner="another:1") == 0
        assert batches.renew(connection, claimed, seconds=60)
    assert states(client, job) == {"leased": 1}


def prediction(number: int) -> predictions.Prediction:
    stored = np.zeros(4, "<f2").tobytes()
    name = number.to_bytes(4, "big")
    return predictions.Prediction(name, "BMW M3 Coupe 2012", "BMW", "M3", "Coupe", 2012, 0.5, "model", stored)


def test_storing_the_same_predictions_in_any_order_at_once(client: Client, runtime: Make) -> None:
    runtime()
    with client.database.read() as connection:
        version = connection.scalar(text("SELECT id FROM model_versions WHERE name = 'tiny'"))

    def store(order: Sequence[int]) -> int:
        new = 0
        for part in range(10):
            with client.database.write() as connection:
                new += predictions.store(connection, version, [prediction(part << 16 | at) for at in order])
        return new

    orders = [range(300), range(299, -1, -1), [*range(150, 300), *range(150)]]
    with ThreadPoolExecutor(3) as threads:
        assert sum(threads.map(store, orders)) == 3_000


def test_everything_at_once(client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers commit batches with common photos while leases are reclaimed and a job is canceled."""
    monkeypatch.setattr(batches, "MAX_CRASHES", 10**4)
    folder = photos(30, 16)
    mirrored = folder.parent / "mirrored"
    mirrored.mkdir()
    for file, name in zip(sorted(folder.iterdir()), range(99, 0, -1), strict=False):
        shutil.copy(file, mirrored / f"{name:02}.jpg")  # the same photos in the opposite order
    makers = [runtime(identity, batch_size=6, window=4) for identity in "abcd"]
    jobs = [listed(client, makers[0], source) for source in (folder, mirrored, folder, mirrored)]
    errors: list[BaseException] = []
    working = threading.Event()
    working.set()

    def repeat(step: Callable[[], object]) -> None:
        try:
            while working.is_set():
                step()
        except BaseException as exc:
            errors.append(exc)

    def reclaim_one() -> None:
        with makers[3].database.read() as connection:
            leased = batches.leased_by(connection, "")
        for batch_id, job_id, owner in leased[:1]:
            with makers[3].database.write() as connection:
                batches.reclaim(connection, batch_id, job_id=job_id, owner=owner)
        recover(makers[3], idle=True)

    threads = [threading.Thread(target=repeat, args=(lambda one=one: classify_batch(one),)) for one in makers[:3]]
    threads.append(threading.Thread(target=repeat, args=(reclaim_one,)))
    for thread in threads:
        thread.start()
    jobs[3].cancel()
    deadline = time.monotonic() + 60
    while not errors and time.monotonic() < deadline and any(job.status().finished_at is None for job in jobs):
        for job in jobs:
            status = job.status()
            assert status.ok + status.failed + status.canceled + status.pending == status.total
    working.clear()
    for thread in threads:
        thread.join()
    assert errors == []
    ends = [check_honest(client, job) for job in jobs]
    assert [(end.state, end.ok) for end in ends[:3]] == [("completed", 30)] * 3
    assert ends[3].state == "canceled"


def test_prune_beside_a_commit_that_reuses_a_prediction(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruned between look-up and commit: the batch is done again and its photo classified anew."""
    worker = runtime()
    folder = photos(3, 16)
    first = listed(client, worker, folder)
    drain(worker)
    second = listed(client, worker, folder)
    commit = worker.storage.commit

    def prune_first(*args: Any, **options: Any) -> list[int]:
        monkeypatch.undo()
        first.delete()
        return commit(*args, **options)

    monkeypatch.setattr(worker.storage, "commit", prune_first)
    drain(worker)
    status = check_honest(client, second)
    assert (status.state, status.ok, status.cached) == ("completed", 3, 0)


def test_prune_passes_over_what_a_commit_holds(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = runtime()
    folder = photos(3, 16)
    first = listed(client, worker, folder)
    drain(worker)
    second = listed(client, worker, folder)
    protect = predictions.protect
    pruning: list[threading.Thread] = []

    def protect_and_prune(*args: Any) -> dict[bytes, predictions.Fact]:
        protected = protect(*args)
        pruning.append(threading.Thread(target=first.delete))  # it waits for this transaction's end
        pruning[-1].start()
        return protected

    monkeypatch.setattr(predictions, "protect", protect_and_prune)
    assert classify_batch(worker)
    for thread in pruning:
        thread.join()
    status = check_honest(client, second)
    assert (status.state, status.ok, status.cached) == ("completed", 3, 3)


def test_stored_by_another_and_pruned_before_the_commit(
    client: Client, runtime: Make, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers infer the same photos; the other's job is deleted while this one commits."""
    if client.database.sqlite:
        pytest.skip("SQLite has one writer: nothing comes between two statements")
    worker, other = runtime("a"), runtime("b")
    folder = photos(3, 16)
    first, second = (listed(client, worker, folder) for _ in range(2))
    commit, store = worker.storage.commit, predictions.store

    def let_the_other_commit(*args: Any, **options: Any) -> list[int]:
        monkeypatch.setattr(worker.storage, "commit", commit)
        assert classify_batch(other)
        monkeypatch.setattr(predictions, "store", store_then_delete)
        return commit(*args, **options)

    def store_then_delete(*args: Any) -> int:
        monkeypatch.setattr(predictions, "store", store)
        new = store(*args)
        second.delete()
        return new

    monkeypatch.setattr(worker.storage, "commit", let_the_other_commit)
    assert classify_batch(worker)
    drain(worker)
    assert second.id not in [status.id for status in client.jobs()]
    assert (check_honest(client, first).state, first.status().ok) == ("completed", 3)


def test_pending_is_what_nobody_settled(client: Client, runtime: Make, photos: Photos) -> None:
    worker = runtime(batch_size=4)
    job = listed(client, worker, photos(4, 16))
    claimed = claim(client.database)
    with client.database.write() as connection:
        failed = images.Outcome(1, None, ImageFailure(ImageErrorCode.UNREADABLE, "nul\0byte"))
        images.settle(connection, claimed.job_id, [failed], version_id=1)
        assert [ordinal for ordinal, _ in images.pending(connection, claimed)] == [0, 2, 3]
    (error,) = job.errors()
    assert error.message.startswith("nul")
