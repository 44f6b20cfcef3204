"""Commands and workers as processes, as a user would start them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
from sqlalchemy import text

from jobs import Client

__all__ = ["CHECKOUT", "RunCars", "WorkerProcess", "engine_pid", "environment", "run_cars", "wait_until"]

CHECKOUT = Path(__file__).resolve().parent.parent.parent

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout: float = 30, message: str | Callable[[], str] = "") -> T:
    """Return the first true value of `predicate`; fail with `message` if none comes within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            text = message() if callable(message) else message
            raise AssertionError(f"not within {timeout:g} s: {text or getattr(predicate, '__name__', 'the condition')}")
        time.sleep(0.02)
    return value


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment with `env` on top and the checkout importable, without what colours output."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "PYTHONWARNINGS"}}
    return {**inherited, "PYTHONPATH": str(CHECKOUT), **(env or {})}


def run_cars(
    *args: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run `cars ARGS` in a process of its own, with its output as text."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "jobs.cli", *map(str, args)],
        env=environment(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


RunCars = Callable[..., subprocess.CompletedProcess[str]]


class WorkerProcess:
    """A `cars worker` in a session of its own, with its output in a file."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self.env = dict(env)
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """Return what the worker and its children have written so far."""
        return self.log.read_text(errors="replace")

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait for this worker's heartbeat row."""

        def beats() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.output()[-4000:]}")
            return any(worker.pid == self.pid and worker.alive for worker in client.workers())

        with Client(database_url=self.env["CARS_DATABASE_URL"], broker_url=self.env["CARS_BROKER_URL"]) as client:
            wait_until(beats, timeout, lambda: f"the worker's heartbeat\n{self.output()[-4000:]}")

    def child_pids(self) -> list[int]:
        """Return the processes below the worker: its engine children and what belongs to them."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]
        return []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker and all its children (SIGSTOP and SIGCONT, for example)."""
        for pid in [self.pid, *self.child_pids()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_all(self) -> None:
        """Send SIGKILL to the worker and its children at once, as if the machine lost power."""
        children = self.child_pids()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout: float = 30) -> int:
        """Send SIGTERM, wait, and return the exit code; fail if the worker does not end."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(
                f"the worker did not end within {timeout:g} s of SIGTERM\n{self.output()[-4000:]}"
            ) from None


def engine_pid(worker: WorkerProcess, client: Client) -> int:
    """Return the process id of the child that has a lease now."""

    def holder() -> int:
        with client.database.read() as connection:
            owner = connection.execute(text("SELECT owner FROM batches WHERE state = 'leased'")).scalars().first()
        pid = int(owner.rpartition(":")[2]) if owner else 0
        return pid if pid in worker.child_pids() else 0

    return wait_until(holder, 40, "a lease of the worker's child")
