"""Bringing a database to this release's schema, and refusing those that are not ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from jobs.db import filling
from jobs.db.database import VERSION_TABLE, Database
from jobs.db.filling import Report
from jobs.db.queries import versions
from jobs.errors import ForeignDatabase, SchemaMissing, SchemaTooNew
from jobs.records import Json
from jobs.states import VersionState

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["HEAD", "VERSION_TABLE", "bundled", "check", "migrate", "prepare"]

HEAD = "0012"  # the newest migration: known without loading Alembic, which every command would wait for
ADVISORY_LOCK = 0x63617273  # "cars"


def migrate(database: Database, *, report: Report | None = None) -> dict[str, str | None]:
    """Bring the schema to this release and register the bundled model version; promote it if nothing is in production.

    Safe to run from many processes at once. What takes long goes in short transactions, so that a migration that was
    stopped continues where it was; `report` gets the number of images done and of all. Returns `from` and `to` (schema
    revisions; `from` is None for a new database) and `model_version` (the version that was registered now, else None).
    Raises ForeignDatabase and SchemaTooNew, changing nothing.
    """
    with database.write() as connection, _locked(connection):
        before = _current(connection)
        if before is not None and before < filling.TABLES:
            _upgrade(connection, filling.TABLES)
        elif before != filling.TABLES:
            return _finished(connection, before)
    filling.fill(database, lock=_locked, report=report)
    with database.write() as connection, _locked(connection):
        return _finished(connection, before)


def _finished(connection: Connection, before: str | None) -> dict[str, str | None]:
    if before != HEAD:
        _upgrade(connection, "head")
    return {"from": before, "to": HEAD, "model_version": _register_bundled(connection)}


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def prepare(database: Database) -> None:
    """`migrate` the embedded database, where there is something to do; `check` another."""
    if not database.sqlite:
        check(database)
        return
    with database.read() as connection:
        found = bundled()
        ready = _current(connection) == HEAD
        if ready and (found is None or versions.by_name(connection, found[0]["name"]) is not None):
            return
    migrate(database)


def check(database: Database) -> None:
    """Raise SchemaMissing, SchemaTooNew or ForeignDatabase unless the schema is this release's."""
    with database.read() as connection:
        if _current(connection) != HEAD:
            raise SchemaMissing("the database has no tables of this release yet: run `cars migrate`")


def bundled() -> tuple[Json, str] | None:
    """Card and digest of the model version that ships with the program; None where it has none."""
    spec = find_spec("model")
    if spec is None or not spec.submodule_search_locations:
        return None
    card = Path(next(iter(spec.submodule_search_locations))) / "bundled" / "card.json"
    if not card.is_file():
        return None
    raw = card.read_bytes()
    return json.loads(raw), hashlib.sha256(raw).hexdigest()


def _register_bundled(connection: Connection) -> str | None:
    found = bundled()
    if found is None:
        return None
    card, digest = found
    version_id, is_new = versions.register(
        connection, name=card["name"], card=card, digest=digest, location="bundled", state=VersionState.AVAILABLE
    )
    if versions.production(connection) is None:
        versions.promote(connection, version_id, reason="initial")
    return card["name"] if is_new else None


def _current(connection: Connection) -> str | None:
    tables = set(inspect(connection).get_table_names())
    if tables and VERSION_TABLE not in tables:
        raise ForeignDatabase(
            f"the database holds tables of another program ({', '.join(sorted(tables)[:3])}); nothing was changed. "
            "Give the car classifier a database of its own in CARS_DATABASE_URL"
        )
    if VERSION_TABLE not in tables:
        return None
    current = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()  # noqa: S608
    if current is not None and current != HEAD and current not in _revisions():
        raise SchemaTooNew(
            f"the database was migrated by a newer release (schema {current}): update the car classifier"
        )
    return None if current is None else str(current)


def _revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _config() -> Config:
    from alembic.config import Config

    spec = find_spec("migrations")
    assert spec is not None
    assert spec.submodule_search_locations
    config = Config()
    config.set_main_option("script_location", next(iter(spec.submodule_search_locations)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """One migration at a time: SQLite's writing transaction is a lock already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    yield
