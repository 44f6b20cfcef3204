"""The examples do what they say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.backends import Backend, embedded
from tests.support.engines import SCRIPTED
from tests.support.processes import CHECKOUT, RunCars, WorkerProcess, environment, wait_until
from tests.support.receivers import SECRET

EXAMPLES = CHECKOUT / "examples"


@pytest.fixture
def port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def received(port: int, tmp_path: Path) -> Iterator[Path]:
    """Return a file with what the example that receives has printed."""
    printed = tmp_path / "received"
    command = [sys.executable, str(EXAMPLES / "receive_notifications.py"), str(port)]
    with printed.open("wb") as output:
        server = subprocess.Popen(command, env=environment({"CARS_NOTIFY_SECRET": SECRET}), stdout=output)
    yield printed
    server.kill()
    server.wait()


def listening(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@embedded
def test_a_receiver_is_told_of_a_job(
    backend: Backend, photos: Callable[..., Path], run_cars: RunCars, received: Path, port: int
) -> None:
    wait_until(lambda: listening(port), message="the receiver's port")
    env = {**SCRIPTED, "CARS_NOTIFY_HOSTS": f"127.0.0.1:{port}", "CARS_NOTIFY_SECRET": SECRET}
    done = run_cars("classify", photos(2), "--notify", f"http://127.0.0.1:{port}/", env=env)
    assert done.returncode == 0, done.stderr
    assert received.read_text() == "job 1 is completed: 2 of 2 images\n"


@embedded
def test_a_celery_task_waits_on_a_job(
    backend: Backend, photos: Callable[..., Path], worker: Callable[..., WorkerProcess]
) -> None:
    folder = photos(2)
    worker({**backend.env, **SCRIPTED})
    code = (
        "from celery_task import classify_listing; import json, sys; "
        "first, again = (classify_listing.apply(args=[sys.argv[1]], task_id='4711').get() for _ in range(2)); "
        "assert first == again; print(json.dumps(first))"
    )
    env = {**environment(backend.env), "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(EXAMPLES)])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(folder)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert '"job": "1", "state": "completed"' in done.stdout
