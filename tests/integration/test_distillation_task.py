"""Runs by the recipe distill, as a worker does them: from a file or a version as teacher to a published student."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import Client
from jobs.errors import NotPossible, SettingsInvalid, SourceMissing, SourceNotAllowed, VersionNotFound
from tests.support.backends import embedded
from tests.support.labelled_photos import COLORS, write_folders
from tests.support.plans import TINY
from tests.support.steps import version_of, versions
from tests.support.teachers import write_teacher
from workers.runtime import Runtime
from workers.training.task import train_model

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CLASSES = sorted(COLORS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "data", photos=12)


@embedded
def test_a_student_of_a_file_is_published(client: Client, runtime: Callable[..., Runtime], data: Path) -> None:
    file = write_teacher(data.parent / "colors.onnx", CLASSES[::-1])
    run = client.train(data, recipe="distill", teacher=str(file), init="scratch", force=True, plan=TINY)
    assert train_model(runtime(engine="onnx"), int(run.id))
    status = run.status()
    assert (status.state, status.error) == ("published", None)
    assert any(note.startswith("teacher: colors.onnx") for note in status.notes)
    assert any(note.startswith("precision: float32") for note in status.notes)
    recipe = client.model_card(version_of(run))["recipe"]
    assert recipe["name"] == "distill"
    assert recipe["teacher"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (recipe["teacher"]["name"], recipe["teacher"]["licence"]) == ("colors.onnx", "CC0")


@embedded
def test_a_registered_version_can_be_the_teacher(
    client: Client, runtime: Callable[..., Runtime], publish: Callable[..., str], data: Path
) -> None:
    worker = runtime(engine="onnx")
    publish("master", classes=CLASSES)
    run = client.train(data, recipe="distill", teacher="master", init="scratch", force=True, plan=TINY)
    assert train_model(worker, int(run.id))
    status = run.status()
    assert (status.state, status.error) == ("published", None)
    teacher = client.model_card(version_of(run))["recipe"]["teacher"]
    assert teacher["name"] == "master"
    assert teacher["sha256"] == client.model_card("master")["files"]["model.onnx"]


@embedded
@pytest.mark.parametrize(
    ("classes", "changes", "words"),
    [
        (CLASSES[:3], {}, "has other classes than the data"),
        (CLASSES, {"size": 25}, "a teacher takes one input"),
        (CLASSES, {"licence": None}, "licence"),
    ],
    ids=["classes", "input", "licence"],
)
def test_a_teacher_that_will_not_do_fails_the_run_before_any_epoch(
    classes: list[str],
    changes: dict[str, Any],
    words: str,
    client: Client,
    runtime: Callable[..., Runtime],
    data: Path,
) -> None:
    from tests.support.teachers import graph

    file = write_teacher(data.parent / "t.onnx", classes, model=graph(len(classes)), **changes)
    worker, before = runtime(engine="onnx"), versions(client)
    run = client.train(data, recipe="distill", teacher=str(file), init="scratch", plan=TINY)
    assert train_model(worker, int(run.id))
    status = run.status()
    assert (status.state, status.epochs_run) == ("failed", 0)
    assert words in (status.error or "")
    assert versions(client) == before


def test_what_cannot_teach_is_refused_at_once(client: Client, data: Path) -> None:
    fine = write_teacher(data.parent / "t.onnx", CLASSES)
    lonely = write_teacher(data.parent / "lonely.onnx", CLASSES)
    lonely.with_suffix(".json").unlink()
    (data.parent / "net.pt").write_bytes(b"\x80\x04.")
    for teacher, error, words in (
        (None, SettingsInvalid, "learns from a teacher"),
        (str(data.parent / "gone.onnx"), SourceMissing, "does not exist"),
        (str(lonely), SourceMissing, "classes, size, mean, std, source and licence"),
        (str(data.parent / "net.pt"), NotPossible, "can run code"),
        (str(data), NotPossible, r"not an \.onnx file"),
        ("/etc/t.onnx", SourceNotAllowed, "outside"),
        ("nobody", VersionNotFound, "nobody"),
    ):
        with pytest.raises(error, match=words):
            client.train(data, recipe="distill", teacher=teacher, init="scratch")
    with pytest.raises(SettingsInvalid, match="no use for a teacher"):
        client.train(data, recipe="scratch", teacher=str(fine))
    assert list(client.trainings()) == []
