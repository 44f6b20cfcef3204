"""Statements on model versions and promotions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, text, update

from jobs.db.database import now
from jobs.db.tables import PromotionRow, VersionRow
from jobs.states import VersionState

__all__ = ["add", "by_id", "by_name", "history", "lock", "page", "production", "promote", "set_state"]


def add(
    connection: Connection, *, name: str, card: dict[str, Any], digest: str, location: str, state: VersionState
) -> int:
    """Register a version and return its id; an IntegrityError when the name is taken."""
    row = {"name": name, "card": card, "digest": digest, "location": location, "state": state, "registered_at": now()}
    return connection.execute(insert(VersionRow).values(row).returning(VersionRow.id)).scalar_one()


def by_name(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(*VersionRow.__table__.columns).where(VersionRow.name == name)).one_or_none()


def by_id(connection: Connection, version_id: int) -> Row[Any] | None:
    return connection.execute(select(*VersionRow.__table__.columns).where(VersionRow.id == version_id)).one_or_none()


def page(connection: Connection) -> Sequence[Any]:
    """All versions, newest first."""
    return connection.execute(select(*VersionRow.__table__.columns).order_by(VersionRow.id.desc())).all()


def production(connection: Connection) -> Row[Any] | None:
    """The version that new jobs are pinned to."""
    newest = select(PromotionRow.version_id).order_by(PromotionRow.id.desc()).limit(1).scalar_subquery()
    return connection.execute(select(*VersionRow.__table__.columns).where(VersionRow.id == newest)).one_or_none()


def promote(connection: Connection, version_id: int, *, reason: str) -> None:
    """Make a version production from now on."""
    connection.execute(insert(PromotionRow).values(version_id=version_id, reason=reason, promoted_at=now()))


def set_state(connection: Connection, version_id: int, state: VersionState) -> None:
    """Change what a version may be used for."""
    connection.execute(update(VersionRow).where(VersionRow.id == version_id).values(state=state))


def history(connection: Connection) -> Sequence[Any]:
    """Promotions, oldest first: `name`, `state` (today's), `reason`, `promoted_at`, `version_id`."""
    columns = (
        VersionRow.name, VersionRow.state, PromotionRow.reason, PromotionRow.promoted_at, PromotionRow.version_id
    )  # fmt: skip
    joined = select(*columns).join(VersionRow, VersionRow.id == PromotionRow.version_id)
    return connection.execute(joined.order_by(PromotionRow.id)).all()


def lock(connection: Connection) -> None:
    """Let one transaction at a time add a version or change what is in production (one of SQLite is alone already)."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE promotions IN SHARE ROW EXCLUSIVE MODE"))
