"""The workers' steps by hand: a client, model versions of a few bytes, and runtimes that only note their messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import Client
from jobs import settings as configuration
from tests.support.artifacts import write_artifact
from tests.support.backends import Backend
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
    """Yield a client of the backend, migrated."""
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


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Yield the URL of a local S3 server; skip the test where its packages are missing."""
    pytest.importorskip("s3fs")
    moto_server = pytest.importorskip("moto.server")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:  # boto3 has no types
    """Yield a client of the server, which this process's environment names; there is an empty bucket `cars`."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = pytest.importorskip("boto3").client("s3")
    client.create_bucket(Bucket="cars")
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="cars"):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket="cars", Key=item["Key"])
    client.delete_bucket(Bucket="cars")
    client.close()
