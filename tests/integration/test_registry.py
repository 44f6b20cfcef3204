"""Model versions: what is in production, for whom, and since when."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import text

from jobs import Client
from jobs.errors import NotPossible, VersionNotFound
from tests.unit.artifacts import CLASSES
from workers.classify import classify_batch
from workers.runtime import Runtime
from workers.scan import scan_job

Publish = Callable[..., str]


def live(client: Client) -> list[str]:
    return [version["name"] for version in client.models() if version["production"]]


@pytest.fixture
def three(client: Client, publish: Publish) -> list[str]:
    """Three versions, none promoted; what was in production is out of the history."""
    with client.database.write() as connection:
        connection.execute(text("DELETE FROM promotions"))
    return [publish(name) for name in ("v1", "v2", "v3")]


def test_promote_and_history(client: Client, three: list[str]) -> None:
    assert live(client) == []
    with pytest.raises(VersionNotFound, match="cars migrate"):
        client.model()
    client.promote("v1")
    client.promote("v3")
    assert live(client) == ["v3"]
    assert client.model()["name"] == client.model("production")["name"] == "v3"
    assert not client.model("v1")["production"]
    first, second = client.history()
    assert (first["model_version"], second["model_version"]) == ("v1", "v3")
    assert (first["until"], second["until"]) == (second["from"], None)


def test_promoting_what_is_live_changes_nothing(client: Client, three: list[str]) -> None:
    client.promote("v1")
    before = client.history()
    client.promote("v1")
    client.promote("production")
    assert client.history() == before


def test_listing(client: Client, three: list[str]) -> None:
    listed = [version["name"] for version in client.models()]
    assert listed[:3] == ["v3", "v2", "v1"]
    version = client.models()[0]
    assert (version["state"], version["top1"], version["created_at"]) == ("available", 0.7, "2026-01-02T03:04:05Z")
    assert client.model("v2")["classes"] == list(CLASSES)


def test_rollback_is_a_stack(client: Client, three: list[str]) -> None:
    for name in three:
        client.promote(name)
    assert client.rollback() == "v2"
    assert client.rollback() == "v1"
    with pytest.raises(NotPossible, match="cars model history"):
        client.rollback()
    client.promote("v3")
    assert client.rollback() == "v1"
    assert live(client) == ["v1"]
    assert [(entry["model_version"], entry["reason"]) for entry in client.history()] == [
        *(("v1", "promote"), ("v2", "promote"), ("v3", "promote")),
        *(("v2", "rollback"), ("v1", "rollback"), ("v3", "promote"), ("v1", "rollback")),
    ]


def test_unknown_and_rejected(client: Client, three: list[str]) -> None:
    with pytest.raises(VersionNotFound, match="cars models"):
        client.promote("v9")
    with client.database.write() as connection:
        connection.execute(text("UPDATE model_versions SET state = 'rejected' WHERE name = 'v2'"))
    with pytest.raises(NotPossible, match="rejected"):
        client.promote("v2")
    assert live(client) == []


def test_promotions_at_once_leave_one_line_of_history(client: Client, three: list[str]) -> None:
    def promote(number: int) -> None:
        with Client() as other:
            other.promote(three[number % 3])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(promote, range(24)))
    names = [entry["model_version"] for entry in client.history()]
    assert all(one != after for one, after in pairwise(names))  # each saw the one before it
    assert live(client) == [names[-1]]


def test_rollbacks_at_once_pop_one_each(client: Client, three: list[str]) -> None:
    for name in [*three, *three]:
        client.promote(name)

    def roll(_: int) -> str:
        with Client() as other:
            return other.rollback()

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(roll, range(4))) == ["v1", "v2", "v2", "v3"]
    assert client.rollback() == "v1"


def test_a_running_job_keeps_its_version(
    client: Client, publish: Publish, runtime: Callable[..., Runtime], photos: Callable[..., Path]
) -> None:
    worker = runtime(batch_size=2)
    folder = str(photos(6, 16))
    job = client.submit(folder)
    scan_job(worker, int(job.id))
    assert classify_batch(worker)
    client.promote(publish("next", classes=[*CLASSES, "Volvo C30 Hatchback 2012"]))
    while classify_batch(worker):
        pass
    assert {result.model_version for result in job.results()} == {"tiny"}
    assert {len(result.top) for result in job.results(top_k=9)} == {4}
    after = client.submit(folder)
    pinned = client.submit(folder, model="tiny")
    for other in (after, pinned):
        scan_job(worker, int(other.id))
    while classify_batch(worker):
        pass
    assert {result.model_version for result in after.results()} == {"next"}
    assert {len(result.top) for result in after.results(top_k=9)} == {5}
    assert after.status()["cached"] == 0
    assert pinned.status()["cached"] == 6
    client.rollback()
    assert client.submit(folder).status()["model_version"] == "tiny"
