"""The registry of model versions: which there are, which is in production, and since when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.db.database import Database
from jobs.db.queries import versions
from jobs.errors import NotPossible, VersionNotFound
from jobs.records import ModelVersion, Promotion, iso
from jobs.states import VersionState

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jobs.records import Json

__all__ = ["card", "find", "history", "listing", "promote", "resolve", "retire", "rollback", "usable"]


def resolve(connection: Connection, name: str | None) -> versions.VersionRecord:
    """Return the row of a version by name; None or `production` mean the one in production. Raises VersionNotFound."""
    row = versions.production(connection) if name in {None, "production"} else versions.by_name(connection, name or "")
    if row is None and name in {None, "production"}:
        raise VersionNotFound(
            "no model version is in production; `cars migrate` registers the bundled one, `cars model promote` chooses"
        )
    if row is None:
        raise VersionNotFound(f"no model version {name!r}; `cars models` lists them")
    return row


def usable(connection: Connection, name: str | None) -> versions.VersionRecord:
    """Return the version that a new job is pinned to; see `resolve`. Raises NotPossible for one that is retired."""
    row = resolve(connection, name)
    if row.state == VersionState.RETIRED:
        raise NotPossible(f"{row.name} is retired: choose another of `cars models`, or undo: {_undo(row.name)}")
    return row


def _undo(name: str) -> str:
    return f"cars model retire --undo {name}"


def listing(database: Database) -> list[ModelVersion]:
    """List all versions, newest first."""
    with database.read() as connection:
        live = versions.production(connection)
        rows = versions.page(connection)
    return [ModelVersion.from_row(row, production=live is not None and row.id == live.id) for row in rows]


def find(database: Database, name: str) -> ModelVersion:
    """Return a version. Raises VersionNotFound."""
    with database.read() as connection:
        row = resolve(connection, name)
        live = versions.production(connection)
    return ModelVersion.from_row(row, production=live is not None and live.id == row.id)


def card(database: Database, name: str) -> Json:
    """Return a version's card, with `production`, `state`, `digest` and `registered_at` of the registry."""
    with database.read() as connection:
        row = resolve(connection, name)
        live = versions.production(connection)
    mine = {"state": row.state, "digest": row.digest, "registered_at": iso(row.registered_at)}
    return {"name": row.name, "production": live is not None and live.id == row.id, **mine, **row.card}


def promote(database: Database, name: str) -> None:
    """Make a version production. One that is already stays so, and nothing is written."""
    with database.write() as connection:
        versions.lock(connection)
        row = resolve(connection, name)
        if row.state == VersionState.REJECTED:
            raise NotPossible(
                f"{name} was rejected when it was evaluated; promote it as the outcome of a training with --force"
            )
        if row.state == VersionState.RETIRED:
            raise NotPossible(f"{name} is retired; to use it again: {_undo(name)}, then cars model promote {name}")
        live = versions.production(connection)
        if live is None or live.id != row.id:
            versions.promote(connection, row.id, reason="promote")


def retire(database: Database, name: str, *, undo: bool = False) -> None:
    """Take a version out of use for new jobs, or bring it back (`undo`).

    Its card and files stay, and jobs that have it keep it. Raises VersionNotFound; NotPossible for the version in
    production, or a rejected one.
    """
    with database.write() as connection:
        versions.lock(connection)
        row = resolve(connection, name)
        live = versions.production(connection)
        if live is not None and live.id == row.id:
            raise NotPossible(f"{row.name} is in production: promote another version first")
        if row.state == VersionState.REJECTED:
            raise NotPossible(f"{row.name} was rejected: it can neither be promoted nor retired")
        versions.set_state(connection, row.id, VersionState.AVAILABLE if undo else VersionState.RETIRED)


def rollback(database: Database) -> str:
    """Undo the last promotion that is not undone yet; return the name that is in production now."""
    with database.write() as connection:
        versions.lock(connection)
        live: list[tuple[int, str]] = []
        retired = set[int]()
        for row in versions.history(connection):
            if row.state == VersionState.RETIRED:
                retired.add(row.version_id)
            if row.reason == "rollback" and len(live) > 1:
                live.pop()
            else:
                live.append((row.version_id, row.name))
        live = [one for one in live[:-1] if one[0] not in retired] + live[-1:]
        if len(live) < 2:
            raise NotPossible("there is no earlier version to go back to; `cars model history` lists the promotions")
        version_id, name = live[-2]
        versions.promote(connection, version_id, reason="rollback")
        return name


def history(database: Database) -> list[Promotion]:
    """List the promotions, oldest first; the last one's `until` is None."""
    with database.read() as connection:
        rows = versions.history(connection)
    ends = [*(iso(row.promoted_at) for row in rows[1:]), None]
    return [
        Promotion(model_version=row.name, since=iso(row.promoted_at), until=until, reason=row.reason)
        for row, until in zip(rows, ends, strict=False)  # there is one end too many where nothing was promoted
    ]
