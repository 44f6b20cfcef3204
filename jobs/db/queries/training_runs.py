"""Statements on training runs: their lease, their progress, their end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, func, insert, or_, select, update

from jobs.db.database import later, now
from jobs.db.tables import TrainingRunRow, VersionRow
from jobs.states import RunState

__all__ = [
    "Claim",
    "Ending",
    "RunRecord",
    "add",
    "cancel",
    "claim",
    "finish",
    "get",
    "page",
    "postpone",
    "release",
    "renew",
    "report",
]

MAX_CRASHES = 5  # a run that is tried so often without finishing an epoch is given up
FIRST_PAUSE = 60.0  # seconds before a run that met a passing fault is tried again; four times as long with each try


class RunRecord(NamedTuple):
    """A training run: its row, and `model_version`, the name of what it has made.

    `options` and `progress` are JSON objects; `candidate` and `production` are numbers on the holdout.
    """

    id: int
    token: str
    state: RunState
    dataset: str
    recipe: str
    init: str
    epochs: int | None
    options: Mapping[str, Any]
    progress: Mapping[str, Any]
    candidate: Mapping[str, Any] | None
    production: Mapping[str, Any] | None
    version_id: int | None
    promoted: bool
    reason: str | None
    error: str | None
    owner: str | None
    attempt: int
    crashes: int
    expires_at: datetime | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    model_version: str | None


class Claim(NamedTuple):
    """A leased run. `attempt` is the fencing token: nothing is written under an older one."""

    id: int
    attempt: int


class Ending(NamedTuple):
    """How a run ends whose version was evaluated."""

    state: RunState
    version_id: int
    candidate: Mapping[str, Any]
    production: Mapping[str, Any] | None
    promoted: bool
    reason: str


def add(connection: Connection, values: Mapping[str, Any]) -> int:
    """Insert a queued run and return its id."""
    row = {"progress": {}, **values, "state": RunState.QUEUED, "created_at": now()}
    return connection.execute(insert(TrainingRunRow).values(row).returning(TrainingRunRow.id)).scalar_one()


def get(connection: Connection, run_id: int) -> RunRecord | None:
    """Return the run of this id."""
    row = connection.execute(_with_version().where(TrainingRunRow.id == run_id)).one_or_none()
    return RunRecord(**row._asdict()) if row else None


def page(connection: Connection, *, before: int | None, limit: int) -> list[RunRecord]:
    """List runs, newest first, below the id `before`."""
    query = _with_version().order_by(TrainingRunRow.id.desc()).limit(limit)
    rows = connection.execute(query if before is None else query.where(TrainingRunRow.id < before))
    return [RunRecord(**row._asdict()) for row in rows]


def _with_version() -> Select[*tuple[Any, ...]]:
    columns = (*TrainingRunRow.__table__.columns, VersionRow.name.label("model_version"))
    return select(*columns).outerjoin(VersionRow, VersionRow.id == TrainingRunRow.version_id)


def claim(connection: Connection, run_id: int, *, owner: str, seconds: float) -> Claim | None:
    """Lease a queued run; None when there is no such run, another has it, or it is to wait: a message may come any
    number of times.
    """
    row = connection.execute(
        update(TrainingRunRow)
        .where(TrainingRunRow.id == run_id, _due())
        .values(
            state=RunState.RUNNING,
            error=None,
            owner=owner,
            attempt=TrainingRunRow.attempt + 1,
            expires_at=later(seconds),
            started_at=func.coalesce(TrainingRunRow.started_at, now()),
        )
        .returning(TrainingRunRow.id, TrainingRunRow.attempt)
    ).one_or_none()
    return Claim(*row) if row else None


def _due() -> ColumnElement[bool]:
    """Queued, and not to wait until `expires_at`, which `postpone` sets."""
    row = TrainingRunRow
    return and_(row.state == RunState.QUEUED, or_(row.expires_at.is_(None), row.expires_at <= now()))


def _is_current(claim: Claim) -> ColumnElement[bool]:
    row = TrainingRunRow
    return and_(row.id == claim.id, row.attempt == claim.attempt, row.state == RunState.RUNNING)


def renew(connection: Connection, claim: Claim, *, seconds: float) -> bool:
    """Push the lease ahead; False when it was lost."""
    ahead = update(TrainingRunRow).where(_is_current(claim)).values(expires_at=later(seconds))
    return bool(connection.execute(ahead).rowcount)


def cancel_requested(connection: Connection, claim: Claim) -> bool | None:
    """Return whether it was asked to stop; None when the lease was lost."""
    return connection.scalar(select(TrainingRunRow.cancel_requested).where(_is_current(claim)))


def report(connection: Connection, claim: Claim, progress: Mapping[str, Any], *, epoch_done: bool = False) -> bool:
    """Write down how far the run is; False when the lease was lost."""
    values = {"progress": dict(progress), **({"crashes": 0} if epoch_done else {})}
    return bool(connection.execute(update(TrainingRunRow).where(_is_current(claim)).values(values)).rowcount)


def release(connection: Connection, claim: Claim) -> bool:
    """Release a run, which another worker continues; False when the lease was lost."""
    again = {"state": RunState.QUEUED, "owner": None, "expires_at": None}
    return bool(connection.execute(update(TrainingRunRow).where(_is_current(claim)).values(again)).rowcount)


def finish(connection: Connection, claim: Claim, ending: Ending) -> bool:
    """End a run with its version; False when the lease was lost, and then nothing of it may be committed."""
    return _end(connection, claim, dict(ending._asdict()))


def fail(connection: Connection, claim: Claim, error: str) -> bool:
    """End a run that makes no version; False when the lease was lost."""
    return _end(connection, claim, {"state": RunState.FAILED, "error": error})


def stop(connection: Connection, claim: Claim) -> bool:
    """End a run that was canceled; False when the lease was lost."""
    return _end(connection, claim, {"state": RunState.CANCELED})


def _end(connection: Connection, claim: Claim, values: Mapping[str, Any]) -> bool:
    done = {**values, "owner": None, "expires_at": None, "finished_at": now()}
    return bool(connection.execute(update(TrainingRunRow).where(_is_current(claim)).values(done)).rowcount)


def cancel(connection: Connection, run_id: int) -> None:
    """End a queued run at once, ask the worker of a running one to stop; one that has ended stays as it is."""
    mine = TrainingRunRow.id == run_id
    ended = {"state": RunState.CANCELED, "finished_at": now(), "cancel_requested": True}
    connection.execute(update(TrainingRunRow).where(mine, TrainingRunRow.state == RunState.QUEUED).values(ended))
    running = and_(mine, TrainingRunRow.state == RunState.RUNNING)
    connection.execute(update(TrainingRunRow).where(running).values(cancel_requested=True))


def waiting(connection: Connection, *, patience: float) -> list[int]:
    """List the runs that no process has and that need not wait, made at least `patience` seconds ago, oldest first."""
    queued = and_(TrainingRunRow.finished_at.is_(None), _due())
    old = TrainingRunRow.created_at < later(-patience)
    return list(connection.scalars(select(TrainingRunRow.id).where(queued, old).order_by(TrainingRunRow.id).limit(20)))


def expired(connection: Connection) -> list[int]:
    """Run whose lease has expired."""
    out = and_(TrainingRunRow.state == RunState.RUNNING, TrainingRunRow.expires_at < now())
    return list(connection.scalars(select(TrainingRunRow.id).where(out)))


def leased_by(connection: Connection, prefix: str) -> list[tuple[int, str]]:
    """(run id, owner) of leases whose owner's name begins so."""
    mine = and_(TrainingRunRow.state == RunState.RUNNING, TrainingRunRow.owner.startswith(prefix, autoescape=True))
    rows = connection.execute(select(TrainingRunRow.id, TrainingRunRow.owner).where(mine))
    return [(run_id, owner) for run_id, owner in rows if owner is not None]


def reclaim(connection: Connection, run_id: int, *, owner: str | None = None) -> RunState | None:
    """Reclaim a lost run: it is queued again, or ended where it was canceled or has crashed too often; None when it
    is not lost.

    With `owner`, a process that has crashed, it is reclaimed at once, otherwise only if its lease has expired.
    """
    gone = TrainingRunRow.owner == owner if owner is not None else TrainingRunRow.expires_at < now()
    lost = and_(TrainingRunRow.id == run_id, TrainingRunRow.state == RunState.RUNNING, gone)
    given_up = f"the process that trained crashed {MAX_CRASHES} times without finishing an epoch; is its memory enough?"
    return _try_again(connection, lost, given_up=given_up)


def postpone(connection: Connection, claim: Claim, error: str) -> RunState | None:
    """Release a run that met a passing fault, with the fault as its error: it is tried again after a pause, or ended
    where it was canceled or has been tried too often; None when the lease was lost.
    """
    given_up = f"tried {MAX_CRASHES} times without finishing an epoch: {error}"
    return _try_again(connection, _is_current(claim), given_up=given_up, error=error, pause=FIRST_PAUSE)


def _try_again(
    connection: Connection,
    condition: ColumnElement[bool],
    *,
    given_up: str,
    error: str | None = None,
    pause: float | None = None,
) -> RunState | None:
    columns = (TrainingRunRow.id, TrainingRunRow.crashes, TrainingRunRow.cancel_requested)
    row = connection.execute(select(*columns).where(condition).with_for_update()).one_or_none()
    if row is None:
        return None
    state = RunState.QUEUED
    if row.cancel_requested:
        state, error = RunState.CANCELED, None
    elif row.crashes + 1 >= MAX_CRASHES:
        state, error = RunState.FAILED, given_up
    values = {
        "state": state,
        "crashes": row.crashes + 1,
        "owner": None,
        "expires_at": None if pause is None or state.terminal else later(pause * 4**row.crashes),
        "error": error,
        "finished_at": now() if state.terminal else None,
    }
    connection.execute(update(TrainingRunRow).where(TrainingRunRow.id == row.id).values(values))
    return state
