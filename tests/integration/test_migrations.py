"""The schema: what migrations make is what the tables say, in both databases, whoever runs them and however often."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from jobs import Client
from jobs.db import migrate
from jobs.db.database import Database
from jobs.db.queries import incremental
from jobs.db.tables import Base
from jobs.errors import DatabaseUnavailable, ForeignDatabase, SchemaMissing, SchemaTooNew
from tests.support.processes import CHECKOUT, environment


def alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(CHECKOUT / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'cars.db'}"
    return str(request.getfixturevalue("pg_url"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


def downgrade(database: Database, revision: str) -> None:
    config = alembic()
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def test_migrations_make_the_tables(database: Database) -> None:
    migrate.migrate(database)
    with database.read() as connection:
        options = {"compare_type": True, "compare_server_default": True, "version_table": migrate.VERSION_TABLE}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []


def test_head_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(alembic()).get_current_head() == migrate.HEAD


def test_migrate_says_what_it_did(database: Database) -> None:
    first = migrate.migrate(database)
    bundled = migrate.bundled()
    assert first == {"from": None, "to": migrate.HEAD, "model_version": bundled[0]["name"] if bundled else None}
    assert migrate.migrate(database) == {"from": migrate.HEAD, "to": migrate.HEAD, "model_version": None}
    migrate.check(database)


def test_down_and_up_again(database: Database) -> None:
    migrate.migrate(database)
    downgrade(database, "base")
    with database.read() as connection:
        assert set(inspect(connection).get_table_names()) <= {migrate.VERSION_TABLE}
    with pytest.raises(SchemaMissing, match="cars migrate"):
        migrate.check(database)
    assert migrate.migrate(database)["from"] is None
    migrate.check(database)


def add_job(connection: Connection, job_id: int, *, state: str) -> None:
    """Insert a job with the columns that every schema has."""
    connection.execute(
        text(
            "INSERT INTO jobs (id, name, source, state, version_id, top_k, priority, created_at) "
            "VALUES (:id, 'cars', '/cars', :state, 1, 5, 1, CURRENT_TIMESTAMP)"
        ),
        {"id": job_id, "state": state},
    )


@pytest.mark.parametrize("halfway", [False, True])
def test_crashes_keep_their_counts(database: Database, halfway: bool) -> None:
    """The columns `deaths` of schema 0005 become `crashes`, also where one of them has that name already."""
    migrate.migrate(database)
    downgrade(database, "0005")
    with database.write() as connection:
        add_job(connection, 1, state="running")
        connection.execute(
            text("INSERT INTO images (job_id, ordinal, path, status, deaths) VALUES (1, 0, '0.jpg', 'pending', 2)")
        )
        if halfway:
            connection.execute(text("ALTER TABLE images RENAME COLUMN deaths TO crashes"))
    assert migrate.migrate(database)["from"] == "0005"
    with database.write() as connection:
        connection.execute(text("INSERT INTO images (job_id, ordinal, path, status) VALUES (1, 1, '1.jpg', 'pending')"))
        assert list(connection.scalars(text("SELECT crashes FROM images ORDER BY ordinal"))) == [2, 0]
        assert connection.scalar(text("SELECT count(*) FROM training_runs WHERE crashes > 0")) == 0


def test_earlier_jobs_of_single_files_are_never_current(database: Database) -> None:
    migrate.migrate(database)
    downgrade(database, "0008")
    with database.write() as connection:
        for job_id in (1, 2, 3):
            add_job(connection, job_id, state="completed")
        for path in ("a.jpg", "b.jpg"):
            connection.execute(
                text("INSERT INTO listed_files (job_id, path) VALUES (:id, :path)"), {"id": 3, "path": path}
            )
    assert migrate.migrate(database)["from"] == "0008"
    with database.read() as connection:
        assert incremental.current_run(connection, "/cars") == 2


def test_what_the_release_before_listings_has_written(database: Database, url: str) -> None:
    """Its listings were whole folders and had no verdicts: they stay, and get none."""
    migrate.migrate(database)
    downgrade(database, "0008")
    with database.write() as connection:
        add_job(connection, 1, state="completed")
        digest = {"digest": bytes(32)}
        connection.execute(
            text(
                "INSERT INTO images (job_id, ordinal, path, listing, status, crashes, content_hash, finished_at) "
                "VALUES (1, 0, 'a/b/x.jpg', 'a/b', 'ok', 0, :digest, CURRENT_TIMESTAMP)"
            ),
            digest,
        )
        connection.execute(
            text(
                "INSERT INTO outcomes (job_id, ordinal, version_id, class_id, confidence, finished_at, decision) "
                "VALUES (1, 0, 1, 1, 0.5, CURRENT_TIMESTAMP, 'unknown')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO corrections (content_hash, label, created_at) "
                "VALUES (:digest, 'Audi TT RS Coupe 2012', CURRENT_TIMESTAMP)"
            ),
            digest,
        )
    assert migrate.migrate(database)["from"] == "0008"
    with Client(database_url=url, broker_url="memory://") as client:
        (result,) = client.results("1")
        assert (result.listing, result.correction) == ("a/b", "Audi TT RS Coupe 2012")
        assert [row.path for row in client.results(listing="a/b")] == ["a/b/x.jpg"]
        assert list(client.listings.find()) == list(client.listings.find("1")) == []
        assert [correction.author for correction in client.corrections] == [None]
        assert (client.job("1").status().state, client.job("1").status().unchanged) == ("completed", None)
        with database.read() as connection:
            tags = connection.execute(text("SELECT path, listing, correction FROM image_tags")).all()
            assert tags == [("a/b/x.jpg", "a/b", "Audi TT RS Coupe 2012")]
            assert connection.execute(text("SELECT * FROM listing_tags")).all() == []


def test_many_processes_at_once(database: Database, url: str) -> None:
    code = f"from jobs.db import migrate; from jobs.db.database import Database; migrate.migrate(Database({url!r}))"
    started = [
        subprocess.Popen([sys.executable, "-P", "-c", code], env=environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 3, errors
    with database.read() as connection:
        assert connection.scalar(text("SELECT count(*) FROM promotions")) == (migrate.bundled() is not None)


def test_another_programs_tables(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("CREATE TABLE wp_posts (id integer)"))
    for refused in (migrate.migrate, migrate.check):
        with pytest.raises(ForeignDatabase, match="wp_posts"):
            refused(database)
    with database.read() as connection:
        assert inspect(connection).get_table_names() == ["wp_posts"]


def test_another_programs_file_keeps_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "places.sqlite"
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE moz_places (id integer)")
    other.close()
    before = file.read_bytes()
    database = Database(f"sqlite:///{file}")
    with pytest.raises(ForeignDatabase):
        migrate.prepare(database)
    database.close()
    assert file.read_bytes() == before


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    file = tmp_path / "cars.db"
    file.write_bytes(b"a diary, not a database" * 200)
    database = Database(f"sqlite:///{file}")
    with pytest.raises(ForeignDatabase, match=r"cars\.db is not an SQLite database"):
        migrate.prepare(database)


def test_a_newer_releases_schema(database: Database) -> None:
    migrate.migrate(database)
    with database.write() as connection:
        connection.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))
    for refused in (migrate.migrate, migrate.check):
        with pytest.raises(SchemaTooNew, match="9999"):
            refused(database)
    with database.read() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {migrate.VERSION_TABLE}")) == "9999"


def test_prepare(database: Database) -> None:
    if database.sqlite:
        migrate.prepare(database)
    else:
        with pytest.raises(SchemaMissing):
            migrate.prepare(database)
        migrate.migrate(database)
    migrate.prepare(database)


def test_nobody_answers(tmp_path: Path) -> None:
    database = Database("postgresql+psycopg://cars:secret@127.0.0.1:1/cars")
    with pytest.raises(DatabaseUnavailable, match="CARS_DATABASE_URL") as caught:
        migrate.check(database)
    assert "secret" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnavailable, match="CARS_HOME"):
        Database(f"sqlite:///{tmp_path / 'file' / 'cars.db'}")


def test_the_registry_is_not_changed_by_migrating_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    card = {"name": "bundled-1", "classes": ["BMW M3 Coupe 2012"], "metrics": {"top1": 0.5}}
    newer: Callable[[str], tuple[dict[str, object], str]] = lambda name: ({**card, "name": name}, "0" * 64)  # noqa: E731
    monkeypatch.setattr(migrate, "bundled", lambda: newer("bundled-1"))
    assert migrate.migrate(database)["model_version"] == "bundled-1"
    monkeypatch.setattr(migrate, "bundled", lambda: newer("bundled-2"))
    assert migrate.migrate(database)["model_version"] == "bundled-2"
    with database.read() as connection:
        live = connection.scalar(
            text("SELECT name FROM promotions p JOIN model_versions v ON v.id = p.version_id ORDER BY p.id DESC")
        )
    assert live == "bundled-1"
