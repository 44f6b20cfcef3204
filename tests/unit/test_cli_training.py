"""`cars train`, `cars training`, `cars label` and `cars labels`, with a client that answers from memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.app import app
from jobs.cli.context import Session
from jobs.errors import DatabaseUnavailable, NotPossible, RunNotFound, WorkerFailed
from tests.support.cli_fakes import FakeWorker

STATUS: dict[str, Any] = {
    "id": "3", "state": "published", "stage": None, "dataset": "/cars", "recipe": "finetune", "init": "v1", "epoch": 2,
    "epochs": 2, "epochs_run": 2, "epoch_share": 0.0, "train_loss": 0.5, "valid_loss": 0.4, "accuracy": 0.9,
    "images_per_second": None, "network_images_per_second": None, "eta_seconds": None,
    "notes": ["left out: a.jpg: no image"],
    "model_version": "finetune-3-abc", "promoted": True, "candidate": {"top1": 0.9}, "production": {"top1": 0.8},
    "reason": "top-1 90.00%", "error": None, "cancel_requested": False, "attempt": 1,
    "created_at": "2026-01-02T03:04:05Z", "started_at": "2026-01-02T03:04:06Z", "finished_at": "2026-01-02T03:05:06Z",
}  # fmt: skip
NOTHING = {"model_version": None, "promoted": False, "candidate": None, "production": None, "reason": None, "notes": []}
FAILED = STATUS | NOTHING | {"state": "failed", "error": "/cars has one class"}
CANCELED = STATUS | NOTHING | {"state": "canceled"}
RUNNING = STATUS | NOTHING | {"state": "running", "stage": "training", "epoch": 1, "finished_at": None}


@dataclass
class FakeRun:
    client: FakeClient
    id: str = "3"

    def status(self) -> dict[str, Any]:
        steps = self.client.statuses
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if isinstance(step, Exception):
            raise step
        return step

    def cancel(self) -> dict[str, Any]:
        return self.status()


@dataclass
class FakeClient:
    statuses: list[dict[str, Any] | Exception] = field(default_factory=lambda: [RUNNING, STATUS])
    trainers: bool = False
    asked: dict[str, Any] | None = None

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def workers(self) -> list[dict[str, Any]]:
        return [{"queues": ["control", "classify"], "alive": True}, {"queues": ["train"], "alive": self.trainers}]

    def train(self, dataset: str, **options: Any) -> FakeRun:
        self.asked = {"dataset": dataset, **options}
        return FakeRun(self)

    def training(self, id: str) -> FakeRun:
        if id != "3":
            raise RunNotFound(f"no training run {id!r}")
        return FakeRun(self)

    def trainings(self) -> Iterator[dict[str, Any]]:
        return iter([STATUS, FAILED])

    def label(self, image: str, label: str, *, new_class: bool) -> dict[str, Any]:
        if not new_class:
            raise NotPossible(f"{label!r} is no class that is known")
        self.asked = {"image": image, "label": label}
        return {}

    def import_labels(self, file: Path, *, new_class: bool) -> int:
        return 1234

    def export_labels(self, file: Path) -> int:
        return 5


@dataclass
class Cars:
    client: FakeClient = field(default_factory=FakeClient)
    worker: FakeWorker = field(default_factory=FakeWorker)

    def __call__(self, *arguments: str) -> Result:
        doors = Session(client=lambda: self.client, training_worker=lambda: self.worker)  # type: ignore
        return CliRunner().invoke(app, list(arguments), obj=doors, catch_exceptions=False)


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
    cars.client.statuses = [RUNNING, away, away, STATUS]
    result = cars("train", "/cars", "--wait")
    assert result.exit_code == 0
    assert result.stderr.count("nowhere does not answer; trying again for 10 min") == 1
    assert "the database answers again" in result.stderr


def test_waiting_leaves_the_work_to_a_worker_that_is_alive(cars: Cars) -> None:
    cars.client.trainers = True
    assert cars("train", "/cars", "--wait").exit_code == 0
    assert "start" not in cars.worker.log


@pytest.mark.parametrize(("status", "words"), [(FAILED, "one class"), (CANCELED, "canceled")])
def test_a_run_without_a_version_is_a_failure(cars: Cars, status: dict[str, Any], words: str) -> None:
    cars.client.statuses = [status]
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
    cars.client.statuses = [RUNNING]
    assert json.loads(cars("training", "3").stdout) == RUNNING
    table = cars("training", "3", "--format", "table").stdout
    assert "1/2" in table
    assert cars("training", "4").exit_code == 1


def test_all_runs_are_listed(cars: Cars) -> None:
    rows = [json.loads(line) for line in cars("training").stdout.splitlines()]
    assert [row["state"] for row in rows] == ["published", "failed"]


def test_a_run_is_canceled(cars: Cars) -> None:
    cars.client.statuses = [CANCELED]
    assert "canceled" in cars("training", "3", "--cancel").stderr
    cars.client.statuses = [RUNNING]
    assert "within a step" in cars("training", "3", "--cancel").stderr
    assert cars("training", "--cancel").exit_code == 2


def test_labels(cars: Cars) -> None:
    assert cars("label", "7:a.jpg", "Lada Niva 1977").exit_code == 1
    assert cars("label", "7:a.jpg", "Lada Niva 1977", "--new-class").exit_code == 0
    assert cars.client.asked == {"image": "7:a.jpg", "label": "Lada Niva 1977"}
    assert "1,234 photos" in cars("labels", "import", "labels.csv").stderr
    assert "5 corrections" in cars("labels", "export", "labels.csv").stderr
