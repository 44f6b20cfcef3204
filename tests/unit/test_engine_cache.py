"""What a worker process keeps loaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.db.queries.versions import VersionRecord
from jobs.states import VersionState
from model.cards import Card
from model.errors import ArtifactCorrupt
from tests.support.artifacts import write_artifact
from tests.support.engines import SCRIPTED
from workers.engine_cache import EngineCache

NAMES = ("a", "b", "c")


def row(name: str) -> VersionRecord:
    registered = datetime(2026, 1, 1, tzinfo=UTC)
    return VersionRecord(
        id=1, name=name, state=VersionState.AVAILABLE, location="store", digest="", card={}, registered_at=registered
    )


@pytest.fixture
def found() -> list[str]:
    """The versions that were looked for."""
    return []


@pytest.fixture
def engines(tmp_path: Path, found: list[str]) -> EngineCache:
    def find(version: VersionRecord) -> tuple[Path, Card]:
        found.append(version.name)
        if version.name not in NAMES:
            raise ArtifactCorrupt(f"{version.name} is not there")
        folder = tmp_path / version.name
        return folder, write_artifact(folder, name=version.name)

    return EngineCache(SCRIPTED["CARS_ENGINE"], "cpu", find=find)


def test_an_engine_is_loaded_once_whoever_asks(engines: EngineCache, found: list[str]) -> None:
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda _: engines.load(row("a")), range(8)))
    assert found == ["a"]
    assert len({id(one.engine) for one in loaded}) == 1
    assert loaded[0].card.name == "a"


def test_two_are_kept_and_the_one_used_least_recently_goes(engines: EngineCache, found: list[str]) -> None:
    for name in ("a", "b", "a", "c", "a"):
        engines.load(row(name))
    assert found == ["a", "b", "c"]
    assert [engines.has_loaded(row(name)) for name in NAMES] == [True, False, True]


def test_what_is_unloaded_is_loaded_anew(engines: EngineCache, found: list[str]) -> None:
    before = engines.load(row("a")).engine
    engines.unload("a")
    engines.unload("never loaded")
    assert not engines.has_loaded(row("a"))
    assert engines.load(row("a")).engine is not before
    assert found == ["a", "a"]


def test_a_version_that_cannot_be_found_keeps_nobody_from_the_others(engines: EngineCache) -> None:
    with pytest.raises(ArtifactCorrupt, match="gone is not there"):
        engines.load(row("gone"))
    assert not engines.has_loaded(row("gone"))
    assert engines.load(row("a")).card.name == "a"
