"""Settings: what the CARS_* variables may say, what they mean, and how a mistake is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs import Client
from jobs.errors import SettingsInvalid
from jobs.photo_store import CorrectionPhotoStore
from jobs.settings import load
from model.store import Store
from tests.support.artifacts import write_artifact


def test_defaults_are_embedded(home: Path) -> None:
    settings = load()
    assert (settings.database.get_backend_name(), settings.database.database) == ("sqlite", str(home / "cars.db"))
    assert settings.model_store == str(home / "models")
    assert settings.embedded
    assert settings.sqlite
    assert settings.roots is None


def test_variables_are_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARS_BATCH_SIZE", "7")
    monkeypatch.setenv("CARS_BROKER_URL", "redis://one/0")
    monkeypatch.setenv("CARS_WINDOW", "")
    settings = load(broker_url="redis://two/0", database_url=None)
    assert (settings.batch_size, settings.broker_url, settings.window) == (7, "redis://two/0", None)
    assert not settings.embedded


@pytest.mark.parametrize("name", ["what?", "a%20b", "50%", "c#1", "d&e=f", "g::h", "i;j", "k:l", "päth ü", "m@n"])
def test_everything_lies_in_a_home_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is not part of a URL: whatever it has in it, nothing is read or written beside it."""
    monkeypatch.setenv("CARS_HOME", str(tmp_path / name))
    with Client() as client:
        client.models()
        photo = CorrectionPhotoStore(client.settings.model_store).store(b"bytes")
    folder = tmp_path / "artifact"
    write_artifact(folder, name="tiny")
    Store(load().model_store, load().home / "model-cache").put(folder, "tiny")
    assert {path.name for path in tmp_path.iterdir()} == {name, "artifact"}
    home = tmp_path / name
    assert (home / "cars.db").is_file()
    assert (home / "models" / ".corrections" / photo.hex()).is_file()
    assert (home / "models" / "tiny" / "card.json").is_file()
    assert {path.name for path in home.iterdir()} <= {"cars.db", "cars.db-wal", "cars.db-shm", "models"}


def test_a_file_url_of_models_is_unquoted(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact", name="tiny")
    url = (tmp_path / "my models?").as_uri()
    Store(url, tmp_path / "cache").put(tmp_path / "artifact", "tiny")
    CorrectionPhotoStore(url).store(b"bytes")
    assert {path.name for path in (tmp_path / "my models?").iterdir()} == {"tiny", ".corrections"}


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().batch_size = 1


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p@host/cars", "postgresql+psycopg://u:p@host/cars"),
        ("postgres://u@host/cars", "postgresql+psycopg://u@host/cars"),
        ("postgresql+psycopg2://u@host/cars", "postgresql+psycopg://u@host/cars"),
        ("sqlite:////srv/cars.db", "sqlite:////srv/cars.db"),
    ],
)
def test_database_urls(given: str, used: str) -> None:
    assert load(database_url=given).database.render_as_string(hide_password=False) == used


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CARS_DATABASE_URL", "mysql://u@host/cars"),
        ("CARS_DATABASE_URL", "sqlite://"),
        ("CARS_DATABASE_URL", "sqlite:///:memory:"),
        ("CARS_DATABASE_URL", "cars.db"),
        ("CARS_DEVICE", "gpu"),
        ("CARS_ENGINE", "tensorflow"),
        ("CARS_BATCH_SIZE", "0"),
        ("CARS_BATCH_SIZE", "many"),
        ("CARS_LEASE_SECONDS", "0.1"),
        ("CARS_MAX_FILE_MB", "0"),
        ("CARS_LOG_FORMAT", "xml"),
        ("CARS_BROKER_URL", "foo://host"),
        ("CARS_BROKER_URL", "localhost:6379"),
        ("CARS_BROKER_URL", "redis://"),
    ],
)
def test_a_mistake_names_its_variable(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsInvalid, match=rf"{variable} must be ") as caught:
        load()
    assert not re.search(r"Value error|Input should|pattern|\^", str(caught.value))


def test_a_mistake_shows_no_password() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load(database_url="mysql://u:secret@host/cars")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://host/0?password=secret", "redis://:secret@host:port/0", "redis://[secret/0"])
def test_a_broker_that_the_library_would_choke_on(url: str) -> None:
    with pytest.raises(SettingsInvalid, match="CARS_BROKER_URL") as caught:
        load(broker_url=url)
    assert "secret" not in str(caught.value)


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(SettingsInvalid, match=r"CARS_DEVICE.*CARS_WINDOW"):
        load(device="gpu", window=0)


def test_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    server = {"database_url": "postgresql://host/cars"}
    assert load(**server).roots == ()
    monkeypatch.setenv("CARS_SOURCE_ROOTS", " /srv/photos, s3://bucket/cars \n/mnt,")
    assert load(**server).roots == load().roots == ("/srv/photos", "s3://bucket/cars", "/mnt")
    monkeypatch.setenv("CARS_SOURCE_ROOTS", "/srv/photos:s3://bucket/cars:/mnt")
    assert load().roots == ("/srv/photos", "s3://bucket/cars", "/mnt")


def test_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(home="cars").home == tmp_path / "cars"
