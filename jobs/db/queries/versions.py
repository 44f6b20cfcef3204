"""Statements on model versions and promotions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, insert, select, text, update

from jobs.db.database import now
from jobs.db.tables import PromotionRow, VersionRow
from jobs.states import VersionState

__all__ = [
    "PromotionRecord",
    "VersionRecord",
    "by_id",
    "by_name",
    "classes",
    "history",
    "lock",
    "names",
    "page",
    "production",
    "promote",
    "register",
    "set_state",
]


class VersionRecord(NamedTuple):
    """A registered model version; `card` is its card.json, whose schema `model` knows."""

    id: int
    name: str
    state: VersionState
    location: str
    digest: str
    card: Mapping[str, Any]
    registered_at: datetime


class PromotionRecord(NamedTuple):
    """One promotion: the version's name and its state of today, why, and when."""

    name: str
    state: VersionState
    reason: str
    promoted_at: datetime
    version_id: int


def register(
    connection: Connection, *, name: str, card: Mapping[str, Any], digest: str, location: str, state: VersionState
) -> tuple[int, bool]:
    """Register a version unless one of its name is registered; return the id of that, and whether it is new."""
    if (known := by_name(connection, name)) is not None:
        return known.id, False
    row = {"name": name, "card": card, "digest": digest, "location": location, "state": state, "registered_at": now()}
    return connection.execute(insert(VersionRow).values(row).returning(VersionRow.id)).scalar_one(), True


def by_name(connection: Connection, name: str) -> VersionRecord | None:
    """Return the version of this name."""
    return _one(connection, VersionRow.name == name)


def by_id(connection: Connection, version_id: int) -> VersionRecord | None:
    """Return the version of this id."""
    return _one(connection, VersionRow.id == version_id)


def page(connection: Connection) -> list[VersionRecord]:
    """List all versions, newest first."""
    rows = connection.execute(select(*VersionRow.__table__.columns).order_by(VersionRow.id.desc()))
    return [VersionRecord(**row._asdict()) for row in rows]


def classes(connection: Connection, version_id: int) -> list[str]:
    """List the classes of a version in the card's order: of its card nothing else is read."""
    return list(connection.scalar(select(VersionRow.card["classes"]).where(VersionRow.id == version_id)) or [])


def names(connection: Connection) -> list[str]:
    """List the names of all versions, newest first."""
    return list(connection.scalars(select(VersionRow.name).order_by(VersionRow.id.desc())))


def production(connection: Connection) -> VersionRecord | None:
    """Return the version that new jobs are pinned to."""
    newest = select(PromotionRow.version_id).order_by(PromotionRow.id.desc()).limit(1).scalar_subquery()
    return _one(connection, VersionRow.id == newest)


def _one(connection: Connection, condition: ColumnElement[bool]) -> VersionRecord | None:
    row = connection.execute(select(*VersionRow.__table__.columns).where(condition)).one_or_none()
    return VersionRecord(**row._asdict()) if row else None


def promote(connection: Connection, version_id: int, *, reason: str) -> None:
    """Make a version production from now on."""
    connection.execute(insert(PromotionRow).values(version_id=version_id, reason=reason, promoted_at=now()))


def set_state(connection: Connection, version_id: int, state: VersionState) -> None:
    """Change what a version may be used for."""
    connection.execute(update(VersionRow).where(VersionRow.id == version_id).values(state=state))


def history(connection: Connection) -> list[PromotionRecord]:
    """List promotions, oldest first."""
    columns = (
        VersionRow.name, VersionRow.state, PromotionRow.reason, PromotionRow.promoted_at, PromotionRow.version_id
    )  # fmt: skip
    joined = select(*columns).join(VersionRow, VersionRow.id == PromotionRow.version_id)
    return list(map(PromotionRecord._make, connection.execute(joined.order_by(PromotionRow.id))))


def lock(connection: Connection) -> None:
    """Let one transaction at a time add a version or change what is in production (one of SQLite is alone already)."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE promotions IN SHARE ROW EXCLUSIVE MODE"))
