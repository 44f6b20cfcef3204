"""Statements on what URLs are told of the ends of jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, and_, insert, select, update

from jobs.db.database import later, now
from jobs.db.tables import NotificationRow
from jobs.records import JobStatus
from jobs.states import NotificationState

__all__ = ["Claim", "add", "any_due", "claim", "deliver", "give_up", "given_up", "postpone"]


class Claim(NamedTuple):
    """One attempt at telling a URL; `attempt`, from 1, is the fencing token: nothing is written under an older one."""

    id: int
    job_id: int
    webhook_id: str
    url: str
    body: str
    attempt: int


def add(connection: Connection, job_id: int, *, url: str, status: JobStatus) -> None:
    """Write down that the job's URL is to be told of its end, with the status that it has then."""
    told = replace(status, notified=NotificationState.PENDING)
    body = {"type": "job.finished", "timestamp": status.finished_at, "data": told.to_dict()}
    row = {
        "job_id": job_id,
        "webhook_id": f"msg_{uuid4().hex}",
        "url": url,
        "body": json.dumps(body, separators=(",", ":")),
        "state": NotificationState.PENDING,
        "next_at": now(),
    }
    connection.execute(insert(NotificationRow).values(row))


def any_due(connection: Connection) -> bool:
    """Return whether an attempt is to be made now."""
    return connection.scalar(select(NotificationRow.id).where(_is_due()).limit(1)) is not None


def _is_due() -> ColumnElement[bool]:
    return and_(NotificationRow.state == NotificationState.PENDING, NotificationRow.next_at <= now())


def claim(connection: Connection, *, owner: str, seconds: float, limit: int) -> list[Claim]:
    """Take attempts that are due, the oldest first: for so long nobody else makes them."""
    free = select(NotificationRow.id).where(_is_due()).order_by(NotificationRow.next_at).limit(limit)
    ids = list(connection.scalars(free.with_for_update(skip_locked=True)))
    if not ids:
        return []
    row = NotificationRow
    mine = (
        update(row)
        .where(row.id.in_(ids))
        .values(owner=owner, attempt=row.attempt + 1, next_at=later(seconds))
        .returning(row.id, row.job_id, row.webhook_id, row.url, row.body, row.attempt)
    )
    return sorted(Claim(*found) for found in connection.execute(mine))


def deliver(connection: Connection, claim: Claim) -> bool:
    """The URL has been told; False when the claim was lost."""
    return _settle(connection, claim, NotificationState.DELIVERED, error=None)


def give_up(connection: Connection, claim: Claim, error: str) -> bool:
    """No further attempt is made; False when the claim was lost."""
    return _settle(connection, claim, NotificationState.GIVEN_UP, error=error)


def _settle(connection: Connection, claim: Claim, state: NotificationState, *, error: str | None) -> bool:
    values = {"state": state, "owner": None, "next_at": now(), "last_error": error}
    return bool(connection.execute(update(NotificationRow).where(_is_current(claim)).values(values)).rowcount)


def postpone(connection: Connection, claim: Claim, error: str, *, seconds: float) -> bool:
    """The attempt came to nothing, and the next one is to be made after so long; False when the claim was lost."""
    values = {"owner": None, "next_at": later(seconds), "last_error": error}
    return bool(connection.execute(update(NotificationRow).where(_is_current(claim)).values(values)).rowcount)


def _is_current(claim: Claim) -> ColumnElement[bool]:
    row = NotificationRow
    return and_(row.id == claim.id, row.attempt == claim.attempt, row.state == NotificationState.PENDING)


def given_up(connection: Connection, *, seconds: float) -> list[tuple[int, str]]:
    """(job id, reason) of what was given up in the last `seconds`, newest first."""
    row = NotificationRow
    lately = and_(row.state == NotificationState.GIVEN_UP, row.next_at > later(-seconds))
    rows = connection.execute(select(row.job_id, row.last_error).where(lately).order_by(row.id.desc()))
    return [(job_id, error or "") for job_id, error in rows]
