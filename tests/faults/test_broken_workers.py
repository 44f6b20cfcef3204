"""Workers that cannot work, engines that fail, sources that are away: jobs that can be finished are finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import Client, Job
from tests.support.backends import Backend
from tests.support.broken_engines import odd_picture
from tests.support.engines import SCRIPTED
from tests.support.following import check_whole, done, ended, follow
from tests.support.processes import WorkerProcess, run_cars, wait_until

Photos = Callable[..., Path]
Start = Callable[..., WorkerProcess]


def engine(name: str, **variables: str) -> dict[str, str]:
    return {"CARS_ENGINE": f"tests.support.broken_engines:{name}", **variables}


def waiting(job: Job) -> str | None:
    return job.status().waiting


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"CARS_ENGINE": "nomod:Cls"}, "No module named 'nomod'"),
        ({"CARS_DEVICE": "cuda", "CARS_ENGINE": "onnx"}, "CPU, not on cuda"),
    ],
)
def test_a_worker_that_cannot_work_takes_no_work(
    backend: Backend, photos: Photos, worker: Start, broken: dict[str, str], says: str
) -> None:
    folder = photos(1_000, 16)
    worker({**backend.env, **SCRIPTED, "ENGINE_DELAY": "0.002"})
    with Client() as client:
        job = client.submit(str(folder))
        useless = worker({**backend.env, **broken}, ready=False)
        assert useless.process.wait(90) == 1
        assert says in useless.output().strip().splitlines()[-1]
        assert "Traceback" not in useless.output()
        status = follow(job, until=ended)
        assert (status.state, status.ok) == ("completed", 1_000)


def test_the_check_by_itself(home: Path) -> None:
    import json
    import subprocess
    import sys

    from tests.support.processes import environment

    def check(**env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "workers", "check"]
        return subprocess.run(command, env=environment(env), capture_output=True, text=True, timeout=120)

    passed = check(**SCRIPTED)
    assert passed.returncode == 0, passed.stderr
    found = json.loads(passed.stdout)
    assert (found["ok"], found["engine"]) == (True, SCRIPTED["CARS_ENGINE"])
    assert found["version"]
    failed = check(CARS_ENGINE="nomod:Cls")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert len(failed.stderr.strip().splitlines()) == 1
    assert "nomod" in failed.stderr


@pytest.mark.parametrize("error", ["RuntimeError", "MemoryError", "OSError"])
def test_one_picture_that_the_engine_raises_on(backend: Backend, photos: Photos, worker: Start, error: str) -> None:
    folder = photos(1_999, 16)
    odd_picture(folder / "001000x.png")
    worker({**backend.env, **engine("Raises", ENGINE_RAISES=error)})
    with Client() as client:
        job = client.submit(str(folder))
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.failed) == ("completed_with_errors", 1_999, 1)
        (failed,) = job.errors()
        assert (failed.path, failed.code) == ("001000x.png", "engine_error")
        assert f"{error}: the odd picture" in failed.message
        check_whole(client, job, total=2_000)


def test_an_engine_that_begins_to_raise_for_ever(
    backend: Backend, photos: Photos, worker: Start, tmp_path: Path
) -> None:
    """The worker says that it is broken and takes nothing; another finishes the job; the first one recovers."""
    folder, flag = photos(600, 16), tmp_path / "flag"
    env = {**backend.env, "CARS_BATCH_SIZE": "32"}
    failing = worker({**env, **engine("Forgetful", ENGINE_FLAG=str(flag), ENGINE_DELAY="0.01")})
    with Client() as client:
        job = client.submit(str(folder))
        follow(job, until=done(32))
        flag.touch()
        wait_until(lambda: client.workers()[0].state.startswith("broken: "), 60, failing.output)
        assert "CUDA error" in client.workers()[0].state
        before = follow(job, until=lambda status: status.waiting is not None, timeout=30)
        assert (before.state, before.failed, before.canceled) == ("running", 0, 0)
        healthy = worker({**env, **SCRIPTED})
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.waiting) == ("completed", 600, None)
        healthy.stop()
        flag.unlink()
        more = client.submit(str(photos(50, 16, folder.parent / "more")))
        assert follow(more, until=ended).ok == 50
        assert failing.process.poll() is None


def test_a_source_that_is_away_for_a_while(backend: Backend, photos: Photos, worker: Start) -> None:
    folder = photos(1_000, 16)
    worker({**backend.env, **SCRIPTED, "ENGINE_DELAY": "0.003"})
    with Client() as client:
        job = client.submit(str(folder))
        follow(job, until=done(128))
        away = folder.rename(folder.parent / "away")
        status = follow(job, until=lambda status: status.waiting is not None, timeout=60)
        assert status.waiting is not None
        assert (str(folder) in status.waiting, status.failed) == (True, 0)
        away.rename(folder)
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.waiting) == ("completed", 1_000, None)
        check_whole(client, job, total=1_000)


def test_a_source_that_is_away_before_it_is_listed(backend: Backend, photos: Photos, worker: Start) -> None:
    folder = photos(100, 16)
    with Client() as client:
        job = client.submit(str(folder))
        away = folder.rename(folder.parent / "away")
        worker({**backend.env, **SCRIPTED})
        wait_until(lambda: waiting(job), 60, lambda: str(job.status()))
        away.rename(folder)
        assert follow(job, until=ended).ok == 100


def test_a_worker_with_other_roots(backend: Backend, photos: Photos, worker: Start, tmp_path: Path) -> None:
    folder = photos(1_000, 16)
    worker({**backend.env, **SCRIPTED, "CARS_SOURCE_ROOTS": str(tmp_path / "elsewhere")})
    with Client() as client:
        job = client.submit(str(folder))
        wait_until(lambda: waiting(job), 60, lambda: str(job.status()))
        worker({**backend.env, **SCRIPTED})
        status = follow(job, until=ended)
        assert (status.state, status.ok) == ("completed", 1_000)


def test_an_engine_that_crashes_while_it_is_loaded(
    backend: Backend, photos: Photos, worker: Start, tmp_path: Path
) -> None:
    """Nobody has looked at a photo: none is marked, however often it happens."""
    folder, flag = photos(20, 16), tmp_path / "flag"
    env = {**backend.env, **engine("DiesLoading", ENGINE_FLAG=str(flag)), "CARS_LEASE_SECONDS": "2"}
    running = worker(env)
    flag.touch()
    with Client() as client:
        job = client.submit(str(folder))
        wait_until(lambda: "is still broken" in running.output(), 90, running.output)
        assert client.workers()[0].state.startswith("broken: ")
        flag.unlink()
        status = follow(job, until=ended)
        assert (status.state, status.ok) == ("completed", 20)
    assert worker(env, ready=False).process.poll() is None
    flag.touch()
    late = worker(env, ready=False)
    assert late.process.wait(90) == 1
    assert "signal 9" in late.output()


def test_given_up_at_last_and_retried(backend: Backend, photos: Photos, worker: Start) -> None:
    folder = photos(500, 16)
    worker({**backend.env, **SCRIPTED, "ENGINE_DELAY": "0.003", "CARS_GIVE_UP": "2s"})
    with Client() as client:
        job = client.submit(str(folder))
        follow(job, until=done(128))
        away = folder.rename(folder.parent / "away")
        status = follow(job, until=ended, timeout=60)
        assert status.state == "failed"
        assert status.error is not None
        assert "given up after 2.0 s" in status.error
        assert status.ok + status.canceled == 500
        shown = run_cars("errors", job.id, env=backend.env)
        assert status.error in shown.stderr
        assert f"{status.ok}/500" in run_cars("jobs", "--format", "table", env=backend.env).stdout
        away.rename(folder)
        assert run_cars("retry", job.id, env=backend.env).returncode == 0
        status = follow(job, until=ended)
        assert (status.state, status.ok, status.canceled) == ("completed", 500, 0)
        check_whole(client, job, total=500)
