"""The workers' steps by hand: a client, model versions of a few bytes, and runtimes that only note their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import Client
from jobs import settings as configuration
from tests.conftest import Backend
from tests.support.artifacts import write_artifact
from tests.support.engines import SCRIPTED
from workers.artifacts import register
from workers.runtime import Runtime


class Notes:
    """A notifier that writes down what it was asked to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, *tuple[int, ...]]] = []

    def __call__(self, task: str, *numbers: int) -> bool:
        self.sent.append((task, *numbers))
        return True


@pytest.fixture
def client(backend: Backend) -> Iterator[Client]:
    """A client of the backend, migrated."""
    with Client() as client:
        yield client


@pytest.fixture
def publish(client: Client, tmp_path: Path) -> Callable[..., str]:
    """`publish(name, **card_fields)`: registers a version of four classes and returns its name."""

    def publish(name: str, **changes: Any) -> str:
        folder = tmp_path / "artifacts" / name
        card = write_artifact(folder, name=name, **changes)
        assert register(client.settings, client.database, folder, card)
        return name

    return publish


@pytest.fixture
def runtime(client: Client, publish: Callable[..., str]) -> Iterator[Callable[..., Runtime]]:
    """`runtime(identity="a", **settings)`: a worker process's runtime; the version `tiny` is in production.

    Its engine is the ScriptedEngine; its `notify` is a `Notes`.
    """
    client.promote(publish("tiny"))
    made = []

    def make(identity: str = "a", **changes: Any) -> Runtime:
        settings = configuration.load(**{"engine": SCRIPTED["CARS_ENGINE"], **changes})
        made.append(Runtime(settings, identity=identity, notify=Notes()))
        return made[-1]

    yield make
    for one in made:
        one.close()
