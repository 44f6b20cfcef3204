"""Training from the command line, as on a laptop: nothing runs but the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.labelled_photos import COLORS, write_folders
from tests.support.processes import RunCars
from tests.support.teachers import write_teacher


@pytest.mark.slow
def test_one_command_trains_evaluates_and_says_so(run_cars: RunCars, home: Path, tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data", photos=8)
    env = {"OMP_NUM_THREADS": "1"}
    done = run_cars("train", data, "--recipe", "finetune", "--epochs", "1", "--wait", env=env, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" in done.stderr
    run = json.loads(run_cars("training", done.stdout.strip(), "--format", "json").stdout)
    assert run["state"] in {"published", "rejected"}
    assert run["candidate"]["images"] == run["production"]["images"] > 0
    assert run["model_version"] in done.stderr
    named = run_cars("model", "show", run["model_version"], "--format", "json")
    assert json.loads(named.stdout)["recipe"]["name"] == "finetune"


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_one_command_distills(run_cars: RunCars, home: Path, tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data", photos=8)
    teacher = write_teacher(tmp_path / "teacher.onnx", sorted(COLORS), size=32)
    options = ("--recipe", "distill", "--teacher", teacher, "--init", "scratch", "--epochs", "1", "--force", "--wait")
    done = run_cars("train", data, *options, env={"OMP_NUM_THREADS": "1"}, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "teacher: teacher.onnx" in done.stderr
    run = json.loads(run_cars("training", done.stdout.strip(), "--format", "json").stdout)
    assert run["state"] == "published"
    card = json.loads(run_cars("model", "show", run["model_version"], "--format", "json").stdout)
    assert card["recipe"]["teacher"]["licence"] == "CC0"
    teacher.with_suffix(".json").unlink()
    refused = run_cars("train", data, *options)
    assert refused.returncode == 1
    assert "teacher.json does not exist" in refused.stderr


def test_data_that_cannot_be_used_is_said(run_cars: RunCars, home: Path, tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data", photos=4, labels=("BMW M3 Coupe 2012",))
    done = run_cars("train", data, "--recipe", "scratch", "--wait", timeout=200)
    assert done.returncode == 1
    assert "one class" in done.stderr
