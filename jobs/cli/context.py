"""What commands need from outside: a client, a local worker, another program. A test hands in its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

import typer

if TYPE_CHECKING:
    from jobs.client import Client

__all__ = ["LocalWorker", "Session", "session"]


class LocalWorker(Protocol):
    """A worker that lives as long as one command."""

    def start(self) -> None:
        """Start it and return at once; raises WorkerFailed where it cannot run on this machine."""

    def running(self) -> bool:
        """Whether it runs; raises WorkerFailed, with its last words, when it was started and has ended by itself."""

    def dismiss(self) -> None:
        """Ask it to end and return at once; harmless when it does not run."""

    def stop(self, *, patience: float) -> None:
        """Ask it to end, wait, kill it after `patience` seconds; harmless when it does not run."""


def _client() -> Client:
    from jobs.client import Client

    return Client()


def _local_worker() -> LocalWorker:
    from jobs.cli.local_worker import WorkerProcess

    return WorkerProcess()


def _training_worker() -> LocalWorker:
    from jobs.cli.local_worker import WorkerProcess, require_training_packages

    return WorkerProcess("--queues", "train", require=require_training_packages)


def _become(arguments: Sequence[str]) -> NoReturn:
    """Replace this process by `python -P -m workers ARGUMENTS`, so that signals reach the worker directly."""
    sys.stdout.flush()
    sys.stderr.flush()
    if arguments[:1] == ["worker"]:  # which takes them up as soon as it can, and then ends with 0
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers", *arguments])  # noqa: S606


@dataclass(frozen=True, slots=True)
class Session:
    """The doors to the outside; the defaults are the real ones."""

    client: Callable[[], Client] = _client
    local_worker: Callable[[], LocalWorker] = _local_worker
    training_worker: Callable[[], LocalWorker] = _training_worker
    become: Callable[[Sequence[str]], object] = _become


def session(ctx: typer.Context) -> Session:
    """The session that the root command has put into the context."""
    found = ctx.find_object(Session)
    if found is None:
        raise RuntimeError("the root callback has not run")
    return found
