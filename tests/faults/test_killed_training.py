"""A training worker crashes in its third of five epochs; no other epoch is run again, and there is one version."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from jobs import Client, TrainingRun
from jobs.notifier import Notifier
from jobs.queues import TRAIN_MODEL
from jobs.records import TrainingStatus
from tests.support.backends import Backend
from tests.support.labelled_photos import COLORS, write_folders
from tests.support.plans import PLAN
from tests.support.processes import WorkerProcess, wait_until
from tests.support.teachers import write_teacher

TRAINS = ("--queues", "train")
SECONDS = 150


def ended(run: TrainingRun, seconds: float = SECONDS) -> TrainingStatus:
    """The run's last status, once it has ended."""

    def terminal() -> TrainingStatus | None:
        status = run.status()
        return status if status.state.terminal else None

    status = wait_until(terminal, seconds, lambda: str(run.status()))
    assert status is not None
    return status


def epochs(worker: WorkerProcess) -> list[int]:
    """The epochs that a worker has finished, in order."""
    return [int(number) for number in re.findall(r"run \d+: epoch (\d+) of 5", worker.output())]


def child_of(client: Client, run: TrainingRun) -> int:
    with client.database.read() as connection:
        owner = connection.scalar(text("SELECT owner FROM training_runs WHERE id = :id"), {"id": int(run.id)})
    return int(owner.rpartition(":")[2])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["embedded"], indirect=True)
def test_a_student_killed_in_its_third_epoch_continues(
    backend: Backend, worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    data = write_folders(tmp_path / "data", photos=8)
    teacher = write_teacher(tmp_path / "teacher.onnx", sorted(COLORS))
    env = {**backend.env, "OMP_NUM_THREADS": "1"}
    with Client() as client:
        one = worker(env, *TRAINS)
        run = client.train(data, recipe="distill", teacher=str(teacher), init="scratch", force=True, plan=PLAN)
        wait_until(lambda: run.status().epoch == 2, SECONDS, lambda: str(run.status()))
        os.kill(child_of(client, run), signal.SIGKILL)
        status = ended(run, 3 * SECONDS)
        assert (status.state, status.error, status.attempt) == ("published", None, 2)
        assert sorted(set(epochs(one))) == [1, 2, 3, 4, 5]
        assert len(epochs(one)) <= 6
        assert client.model_card()["recipe"]["teacher"]["name"] == "teacher.onnx"


def test_killed_in_the_third_epoch(backend: Backend, worker: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data", photos=20)
    env = {**backend.env, "OMP_NUM_THREADS": "1", "CARS_LEASE_SECONDS": "3"}
    with Client() as client:
        before = {row.name for row in client.models()}
        workers = [worker(env, *TRAINS)]
        run = client.train(data, recipe="scratch", force=True, plan=PLAN)
        wait_until(lambda: run.status().epoch == 2, SECONDS, lambda: str(run.status()))
        if backend.name == "embedded":
            os.kill(child_of(client, run), signal.SIGKILL)  # the worker itself continues
        else:
            workers[0].kill_all()
            workers.append(worker(env, *TRAINS))
            wait_until(lambda: run.status().attempt == 2, SECONDS, lambda: str(run.status()))
            notifier = Notifier(client.settings)
            for _ in range(5):
                assert notifier.notify(TRAIN_MODEL, int(run.id))
            notifier.close()
        status = ended(run)
        assert (status.state, status.error, status.attempt) == ("published", None, 2)
        assert status.epochs_run <= 6
        finished = [number for one in workers for number in epochs(one)]
        assert sorted(set(finished)) == [1, 2, 3, 4, 5]
        assert len(finished) <= 6
        assert {row.name for row in client.models()} - before == {status.model_version}
        assert client.model().name == status.model_version
        folder = client.settings.home / "training"
        wait_until(lambda: not any(folder.iterdir()), 30, "the run's folder is removed")
        assert sum(one.output().count("attempt ") for one in workers) == 2
