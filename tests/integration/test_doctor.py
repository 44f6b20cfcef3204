"""`cars doctor`: a worker that could not work, and files that are lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import Client
from jobs.records import CheckResult
from jobs.settings import Settings


def check(client: Client, name: str) -> CheckResult:
    return next(check for check in client.check() if check.check == name)


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`answer(code, stdout, stderr)`: what stands in for `python -P -m workers check` says; returns a file with its
    arguments and settings.
    """

    def put(code: int, stdout: str = "", stderr: str = "") -> Path:
        said = tmp_path / "said.json"
        program = tmp_path / "python"
        program.write_text(
            f"#!{sys.executable} -P\nimport json, os, sys\n"
            f"json.dump([sys.argv[1:], os.environ.get('CARS_DEVICE')], open({str(said)!r}, 'w'))\n"
            f"print({stdout!r}); print({stderr!r}, file=sys.stderr); sys.exit({code})\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return said

    return put


def test_a_worker_is_asked_with_the_same_settings(home: Path, answer: Callable[..., Path]) -> None:
    said = answer(0, "a notice\n" + json.dumps({"ok": True, "device": "cpu", "engine": "onnx", "version": "v1"}))
    with Client(settings=Settings(device="cpu")) as client:
        assert check(client, "engine").ok
        assert check(client, "engine").detail == "onnx cpu v1"
    assert json.loads(said.read_text()) == [["-P", "-m", "workers", "check"], "cpu"]


def test_a_worker_that_could_not_work_is_found(home: Path, answer: Callable[..., Path]) -> None:
    answer(1, stderr="a warning\nerror: there is no module nomod")
    with Client() as client:
        found = check(client, "engine")
    assert not found.ok
    assert found.detail == "a worker could not work here: there is no module nomod"
    assert "CARS_ENGINE" in found.advice


def test_a_worker_that_never_answers_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def expire(*_args: Any, **options: Any) -> None:
        raise subprocess.TimeoutExpired("python", options["timeout"])

    monkeypatch.setattr(subprocess, "run", expire)
    with Client() as client:
        assert "no answer" in check(client, "engine").detail


def test_lost_files_of_a_version_are_named(
    client: Client, publish: Callable[..., str], answer: Callable[..., Path]
) -> None:
    answer(0, json.dumps({"ok": True}))
    publish("v1")
    assert check(client, "model files").ok
    [lost] = (Path(client.settings.model_store) / "v1").glob("*.safetensors")
    lost.unlink()
    found = check(client, "model files")
    assert not found.ok
    assert f"v1 ({lost.name})" in found.detail
    assert "cars model import" in found.advice
    client.retire("v1")
    assert check(client, "model files").ok
