"""Jobs that are canceled, repeated, retried, or that share a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jobs import Client
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED, inferences
from tests.support.following import done, ended, follow
from tests.support.processes import WorkerProcess


def test_cancel(backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]) -> None:
    folder = photos(1_000, 16)
    worker({**backend.env, **SCRIPTED, "ENGINE_DELAY": "0.005"})
    with Client() as client:
        job = client.submit(str(folder))
        before = follow(job, until=done(200))
        after = job.cancel()
        assert after.state == "canceled"
        assert after.ok <= before.ok + 128
        assert after.ok + after.canceled == after.total
        other = client.submit(
            str(photos(10, 16, folder.parent / "other"))
        )  # proves that the worker is done with the first
        follow(other, until=ended)
        assert job.status() == after
        assert job.cancel() == after
        assert sum(result.status == "ok" for result in job.results()) == after.ok
        assert sum(1 for _ in job.results(status="canceled")) == after.canceled


def test_same_folder_again(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    folder, log = photos(300, 16), tmp_path / "inferences"
    worker({**backend.env, **SCRIPTED, "ENGINE_LOG": str(log)})
    with Client() as client:
        first = client.submit(str(folder), key="nightly")
        assert follow(first, until=ended).cached == 0
        assert inferences(log) == 300
        again = client.submit(str(folder))
        status = follow(again, until=ended)
        assert (status.ok, status.cached, inferences(log)) == (300, 300, 300)
        assert client.submit(str(folder), key="nightly").id == first.id
        rows = [{**r.to_dict(), "job": None, "finished_at": None} for r in first.results()]
        assert rows == [{**r.to_dict(), "job": None, "finished_at": None} for r in again.results()]


def test_retry_takes_the_failed_images_only(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    folder, log = photos(20, 16), tmp_path / "inferences"
    good = (folder / "000001.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(good[:100])
    worker({**backend.env, **SCRIPTED, "ENGINE_LOG": str(log)})
    with Client() as client:
        job = client.submit(str(folder))
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.failed) == ("completed_with_errors", 20, 1)
        (folder / "broken.jpg").write_bytes(good)
        assert job.retry().state == "running"
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.failed, status.total) == ("completed", 21, 0, 21)
        assert inferences(log) == 20


def test_small_job_beside_a_large_one(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]
) -> None:
    large = photos(20_000, 8)
    small = photos(10, 8, large.parent / "small")
    worker({**backend.env, **SCRIPTED, "ENGINE_DELAY": "0.001"})
    with Client() as client:
        first = client.submit(str(large))
        follow(first, until=done(1))
        second = client.submit(str(small))
        before = first.status().ok
        assert second.wait(timeout=60).ok == 10
        assert first.status().ok - before < 1_000
        first.cancel()
