"""The version that ships with a release, when the next release ships another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import workers.artifacts
from jobs import Client
from jobs.db.queries import versions
from jobs.states import VersionState
from model import cards
from model.errors import ArtifactCorrupt
from tests.support.artifacts import write_artifact
from workers.runtime import Runtime

Ship = Callable[[str], Any]


@pytest.fixture
def ship(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ship:
    """`ship(name)`: a release with another bundled version, registered as migrating does; returns its row."""

    def ship(name: str) -> Any:
        folder = tmp_path / "releases" / name
        card = write_artifact(folder, name=name)
        monkeypatch.setattr(workers.artifacts, "BUNDLED", folder)
        with client.database.write() as connection:
            document, digest = card.model_dump(mode="json"), cards.digest(folder)
            state = VersionState.AVAILABLE
            versions.register(connection, name=name, card=document, digest=digest, location="bundled", state=state)
            return versions.by_name(connection, name)

    return ship


def test_a_version_outlives_the_release_that_brought_it(runtime: Callable[..., Runtime], ship: Ship) -> None:
    first = ship("first")
    folder, _ = runtime().artifacts.find(first)
    assert folder == workers.artifacts.BUNDLED
    second = ship("second")
    assert runtime().artifacts.find(first)[1].name == "first"
    assert runtime().artifacts.find(second)[0] == workers.artifacts.BUNDLED


def test_one_that_no_worker_has_used_is_gone_and_said_to_be(runtime: Callable[..., Runtime], ship: Ship) -> None:
    first = ship("first")
    ship("second")
    with pytest.raises(ArtifactCorrupt, match="bundled with another release"):
        runtime().artifacts.find(first)


def test_a_store_that_cannot_be_written_keeps_nobody_from_working(
    runtime: Callable[..., Runtime], ship: Ship, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "no-folder").write_text("")
    first = ship("first")
    folder, card = runtime(models=str(tmp_path / "no-folder")).artifacts.find(first)
    assert (folder, card.name) == (workers.artifacts.BUNDLED, "first")
    assert "cannot be kept" in caplog.text
