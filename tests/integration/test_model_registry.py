"""Model versions: what is in production, for whom, and since when."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import URL, Connection, text

from jobs import Client
from jobs import settings as configuration
from jobs.db.database import Database
from jobs.errors import NotPossible, VersionNotFound
from model import cards
from model.errors import ArtifactExists
from tests.support.artifacts import CLASSES, write_artifact
from workers.artifacts import export, register
from workers.classification.classify import classify_batch
from workers.classification.scan import scan_job
from workers.runtime import Runtime

Publish = Callable[..., str]
ROUNDS = 10  # of a race that the slower one may win by chance


def live(client: Client) -> list[str]:
    return [version.name for version in client.models() if version.production]


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
    assert client.model().name == client.model("production").name == "v3"
    assert not client.model("v1").production
    first, second = client.history()
    assert (first.model_version, second.model_version) == ("v1", "v3")
    assert (first.until, second.until) == (second.since, None)


def test_promoting_what_is_live_changes_nothing(client: Client, three: list[str]) -> None:
    client.promote("v1")
    before = client.history()
    client.promote("v1")
    client.promote("production")
    assert client.history() == before


def test_listing(client: Client, three: list[str]) -> None:
    listed = [version.name for version in client.models()]
    assert listed[:3] == ["v3", "v2", "v1"]
    version = client.models()[0]
    assert (version.state, version.top1, version.created_at) == ("available", 0.7, "2026-01-02T03:04:05Z")
    assert client.model_card("v2")["classes"] == list(CLASSES)


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
    assert [(entry.model_version, entry.reason) for entry in client.history()] == [
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


def test_a_retired_version_is_for_no_new_job(client: Client, three: list[str], tmp_path: Path) -> None:
    first, second, third = three
    for name in three:
        client.promote(name)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(NotPossible, match="in production"):
        client.retire(third)
    client.retire(second)
    for refused in (lambda: client.promote(second), lambda: client.submit(str(tmp_path / "photos"), model=second)):
        with pytest.raises(NotPossible, match=f"cars model retire --undo {second}"):
            refused()
    assert {row.name: row.state for row in client.models()}[second] == "retired"
    assert client.rollback() == first  # past the retired one
    client.retire(second, undo=True)
    client.promote(second)
    with pytest.raises(VersionNotFound):
        client.retire("nosuch")


def test_an_import_restores_what_the_store_has_lost(
    client: Client, publish: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts" / publish("v1")
    stored = Path(client.settings.model_store) / "v1"
    for lost in [file for file in stored.rglob("*") if file.is_file()]:  # the card among them
        lost.unlink()
        assert not register(client.settings, client.database, folder, cards.read(folder))
        assert cards.verify(stored).name == "v1"
    export(stored, cards.read(stored), tmp_path / "exported")
    assert cards.verify(tmp_path / "exported").name == "v1"
    shutil.rmtree(stored)
    assert not register(client.settings, client.database, tmp_path / "exported", cards.read(folder))
    assert cards.verify(stored).name == "v1"


def test_promotions_at_once_leave_one_line_of_history(client: Client, three: list[str]) -> None:
    def promote(number: int) -> None:
        with Client() as other:
            other.promote(three[number % 3])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(promote, range(24)))
    names = [entry.model_version for entry in client.history()]
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


class Meeting(Database):
    """A database whose two users wait for each other between reading and what they do next."""

    def __init__(self, url: URL, barrier: Barrier) -> None:
        super().__init__(url)
        self._barrier = barrier

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with super().read() as connection:
            yield connection
        self._barrier.wait(timeout=60)


def register_at_once(client: Client, folders: Sequence[Path], stores: Sequence[str]) -> list[bool | str]:
    """Two processes register, from these folders by these stores, neither seeing the other's; what each got."""
    barrier, url = Barrier(2), client.settings.database
    client.models()  # which makes the tables of the embedded database

    def one(folder: Path, store: str) -> bool | str:
        database = Meeting(url, barrier)
        try:
            return register(configuration.load(models=store), database, folder, cards.read(folder))
        except (NotPossible, ArtifactExists) as exc:
            return str(exc)
        finally:
            database.close()

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(one, folders, stores))


def test_one_version_registered_by_two_at_once_is_there_once(client: Client, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        name = f"v{number}"
        write_artifact(tmp_path / name, name=name)
        assert sorted(register_at_once(client, [tmp_path / name] * 2, [client.settings.model_store] * 2)) == [0, 1]
    assert [row.name for row in client.models()][:ROUNDS] == [f"v{number}" for number in reversed(range(ROUNDS))]


@pytest.mark.parametrize("shared", [True, False])
def test_of_two_versions_of_one_name_registered_at_once_one_is_refused(
    client: Client, tmp_path: Path, shared: bool
) -> None:
    stores = [str(tmp_path / "store" / ("" if shared else side)) for side in ("a", "b")]
    for number in range(ROUNDS):
        folders = [tmp_path / side / f"v{number}" for side in ("a", "b")]
        for temperature, folder in enumerate(folders, start=1):
            write_artifact(folder, name=folder.name, temperature=temperature)
        results = register_at_once(client, folders, stores)
        winner = results.index(True)
        assert "another name" in str(results[1 - winner]) or "new name" in str(results[1 - winner])
        assert client.model_card(f"v{number}")["digest"] == cards.digest(folders[winner])


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
    assert after.status().cached == 0
    assert pinned.status().cached == 6
    client.rollback()
    assert client.submit(folder).status().model_version == "tiny"
