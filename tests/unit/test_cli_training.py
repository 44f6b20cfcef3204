"""`cars train`, `cars training`, `cars label` and `cars labels`, with a client that answers from memory."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jobs.errors import DatabaseUnavailable, WorkerFailed
from jobs.records import TrainingStatus
from tests.support.cli_fakes import RUN, RUN_CANCELED, RUN_FAILED, RUN_RUNNING, WORKER, Cars

TRAINER = replace(WORKER, queues=["train"])


@pytest.fixture
def cars() -> Cars:
    return Cars()


def test_train_prints_the_id_and_passes_everything_on(cars: Cars) -> None:
    done = cars(
        *("train", "/cars", "--recipe", "distill", "--init", "v1", "--epochs", "4", "--min-gain", "0.01", "--force"),
        *("--no-promote", "--min-photos", "5", "--seed", "7", "--teacher", "t.onnx", "--other", "/cups"),
    )
    assert (done.exit_code, done.stdout) == (0, "3\n")
    assert cars.client.asked == {
        "dataset": "/cars", "recipe": "distill", "init": "v1", "epochs": 4, "min_gain": 0.01, "force": True,
        "promote": False, "min_photos": 5, "seed": 7, "teacher": "t.onnx", "other": "/cups",
    }  # fmt: skip
    assert "cars worker --queues train" in done.stderr
    assert "start" not in cars.worker.log


def test_waiting_starts_a_worker_shows_the_run_and_stops_it(cars: Cars) -> None:
    done = cars("train", "/cars", "--wait")
    assert done.exit_code == 0
    assert cars.worker.log == ["start", "stop"]
    assert "epoch 1/2" in done.stderr
    assert "finetune-3-abc is live" in done.stderr
    assert "left out: a.jpg" in done.stderr


def test_waiting_outlasts_a_restart_of_the_database(cars: Cars) -> None:
    away = DatabaseUnavailable("the database at nowhere does not answer")
    cars.client.run_statuses = [RUN_RUNNING, away, away, RUN_RUNNING, RUN]
    result = cars("train", "/cars", "--wait")
    assert result.exit_code == 0
    assert result.stderr.count("nowhere does not answer; trying again for 10 min") == 1
    assert "the database answers again" in result.stderr


def test_waiting_leaves_the_work_to_a_worker_that_is_alive(cars: Cars) -> None:
    cars.client.alive = [WORKER, TRAINER]
    assert cars("train", "/cars", "--wait").exit_code == 0
    assert "start" not in cars.worker.log


@pytest.mark.parametrize(("status", "words"), [(RUN_FAILED, "one class"), (RUN_CANCELED, "canceled")])
def test_a_run_without_a_version_is_a_failure(cars: Cars, status: TrainingStatus, words: str) -> None:
    cars.client.run_statuses = [status]
    done = cars("train", "/cars", "--wait")
    assert done.exit_code == 1
    assert words in done.stderr


def test_where_nobody_can_train_nothing_is_enqueued(cars: Cars, monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise WorkerFailed("this installation cannot train")

    monkeypatch.setattr(cars.worker, "start", start)
    done = cars("train", "/cars", "--wait")
    assert done.exit_code == 1
    assert cars.client.asked is None


def test_a_run_is_one_object(cars: Cars) -> None:
    cars.client.run_statuses = [RUN_RUNNING]
    assert json.loads(cars("training", "3").stdout) == RUN_RUNNING.to_dict()
    table = cars("training", "3", "--format", "table").stdout
    assert "1/2" in table
    assert cars("training", "4").exit_code == 1


def test_all_runs_are_listed(cars: Cars) -> None:
    rows = [json.loads(line) for line in cars("training").stdout.splitlines()]
    assert [row["state"] for row in rows] == ["published", "failed"]


def test_a_run_is_canceled(cars: Cars) -> None:
    cars.client.run_statuses = [RUN_CANCELED]
    assert "canceled" in cars("training", "3", "--cancel").stderr
    cars.client.run_statuses = [RUN_RUNNING]
    assert "within a step" in cars("training", "3", "--cancel").stderr
    assert cars("training", "--cancel").exit_code == 2


def test_labels(cars: Cars) -> None:
    assert cars("label", "7:a.jpg", "Lada Niva 1977").exit_code == 1
    assert cars("label", "7:a.jpg", "Lada Niva 1977", "--new-class").exit_code == 0
    assert cars.client.asked == {"image": "7:a.jpg", "label": "Lada Niva 1977", "author": None}
    assert "1,234 images" in cars("labels", "import", "labels.csv").stderr
    assert "5 corrections" in cars("labels", "export", "labels.csv").stderr
