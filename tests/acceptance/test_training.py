"""Training from the command line, as on a laptop: nothing runs but the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.labelled_photos import write_folders


@pytest.mark.slow
def test_one_command_trains_judges_and_says_so(run_cars: Callable[..., Any], home: Path, tmp_path: Path) -> None:
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


def test_data_that_cannot_be_used_is_said(run_cars: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    data = write_folders(tmp_path / "data", photos=4, labels=("BMW M3 Coupe 2012",))
    done = run_cars("train", data, "--recipe", "scratch", "--wait", timeout=200)
    assert done.returncode == 1
    assert "one class" in done.stderr
