"""Which images come next in an order, found along the indexes of `outcomes`, whatever else is stored.

A walk is a page of keys after a key. A page costs the same at any place and with any number of rows: the filter chooses
the index that has its rows together in the wanted order, or one along which they are frequent. Outcomes never change,
so that no row that was there when a walk began is passed over or met twice while jobs run.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from itertools import islice
from typing import Any, NamedTuple, Self

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    literal,
    null,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from jobs.db.tables import ImageRow, JobRow, OutcomeRow
from jobs.states import Decision

__all__ = ["Key", "Narrowed", "Order", "count", "keys"]

MOST_BRANCHES = 64  # classes whose rows are merged; so many classes together are frequent enough to be met soon
FEW = 10_000  # rows that are sorted rather than sought along another index
FEW_COVERED = 30_000  # the same where one index has all that is sorted: looks at a table take most of the time


class Order(IntEnum):
    """The orders that a walk can have, with the direction."""

    NEWEST = 0
    OLDEST = 1
    SUREST = 2
    UNSUREST = 3
    BY_JOB = 4  # of one job: in the order of its paths

    @property
    def descending(self) -> bool:
        """Whether greater keys come first."""
        return self in (Order.NEWEST, Order.SUREST)


class Key(NamedTuple):
    """Where a walk has come to: what it sorts by (None: rows without it, which come last), and the image."""

    value: datetime | float | None
    job_id: int
    ordinal: int


@dataclass(frozen=True, kw_only=True)
class Narrowed:
    """A filter in terms of outcomes: names are class ids, and a job or a version gives bounds in time."""

    job_id: int | None = None
    version_ids: tuple[int, ...] | None = None
    class_ids: tuple[int, ...] | None = None
    decisions: tuple[str, ...] = tuple(Decision)
    failures: bool = True  # whether failed images fit, too
    min_confidence: float | None = None
    max_confidence: float | None = None
    listing: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    latest: datetime | None = None  # when the last job that it can be about ended

    @property
    def by_confidence(self) -> bool:
        """Whether the confidence is bounded."""
        return self.min_confidence is not None or self.max_confidence is not None

    @property
    def every_decision(self) -> bool:
        """Whether any decision fits."""
        return set(self.decisions) == set(Decision)

    @property
    def few_classes(self) -> bool:
        """Whether the rows of its classes can be merged."""
        return self.class_ids is not None and len(self.class_ids) <= MOST_BRANCHES

    def conditions(self, *, along: Order | None = None) -> Iterator[ColumnElement[bool]]:
        """Yield what an outcome must fulfil, but for its class, its decision and being a failure.

        `along` an order that is not of the confidence, no index finds that: a planner, which takes decision and
        confidence for independent, would expect few rows where there are many. Where they are few, `ranges` are sought.
        """
        confidence: ColumnElement[Any] = OutcomeRow.confidence.expression
        if along not in (None, Order.SUREST, Order.UNSUREST):
            confidence = confidence + 0
        if self.job_id is not None:
            yield OutcomeRow.job_id == self.job_id
        if self.version_ids is not None:
            yield OutcomeRow.version_id.in_(self.version_ids)
        if self.min_confidence is not None:
            yield confidence >= self.min_confidence
        if self.max_confidence is not None:
            yield confidence <= self.max_confidence
        if self.since is not None:
            yield OutcomeRow.finished_at >= self.since
        if self.until is not None:
            yield OutcomeRow.finished_at < self.until
        if self.latest is not None:
            yield OutcomeRow.finished_at <= self.latest

    def of_class(self, *, hidden: bool = False) -> list[ColumnElement[bool]]:
        """Return what an outcome must fulfil in its class; `hidden`, no index finds that."""
        if self.class_ids is None:
            return []
        class_id: ColumnElement[Any] = OutcomeRow.class_id.expression
        return [(class_id + 0 if hidden else class_id).in_(self.class_ids)]

    def each_class(self) -> list[ColumnElement[bool]]:
        """Return a condition for each of its classes."""
        return [OutcomeRow.class_id == each for each in self.class_ids or ()]

    def of_decisions(self, *, hidden: bool = False) -> list[ColumnElement[bool]]:
        """Return what an outcome must fulfil in its decision, or in being a failure; `hidden`, no index finds that."""
        if not self.decisions:
            return [OutcomeRow.error_code.is_not(None)]
        if not self.every_decision:
            decision: ColumnElement[Any] = OutcomeRow.decision.expression
            return [(decision + "" if hidden else decision).in_(self.decisions)]
        return [] if self.failures or self.class_ids is not None else [OutcomeRow.decision.is_not(None)]

    def of_classes(self, *, hidden: bool = False) -> list[ColumnElement[bool]]:
        """Return what an outcome must fulfil in its class and decision; `hidden`, no index finds that."""
        return [*self.of_class(hidden=hidden), *self.of_decisions(hidden=hidden)]

    def ranges(self) -> list[ColumnElement[bool]]:
        """Return a condition for each of its decisions: that, and the bounds of the confidence."""
        low, high = self.min_confidence, self.max_confidence
        bounds = [OutcomeRow.confidence >= low] if low is not None else []
        bounds += [OutcomeRow.confidence <= high] if high is not None else []
        return [and_(OutcomeRow.decision == each, *bounds) for each in self.decisions]

    def bounded(self, connection: Connection) -> Self:
        """Return it with the time at which the last job ended that it can be about, if all of those have ended."""
        if self.job_id is None and self.version_ids is None:
            return self
        which = [JobRow.id == self.job_id] if self.job_id is not None else []
        which += [JobRow.version_id.in_(self.version_ids)] if self.version_ids is not None else []
        ends = func.max(JobRow.finished_at), func.count(), func.count(JobRow.finished_at)
        latest, jobs, ended = connection.execute(select(*ends).where(*which)).one()
        return replace(self, latest=latest) if jobs == ended and jobs else self


def keys(connection: Connection, wanted: Narrowed, order: Order, *, after: Key | None, limit: int) -> list[Key]:
    """List the next keys in an order.

    Sorted by confidence, failures come last, by job and ordinal.
    """
    if wanted.class_ids == () or wanted.version_ids == ():
        return []
    if order is Order.BY_JOB:
        return _of_job(connection, wanted, after=after, limit=limit)
    if order in (Order.NEWEST, Order.OLDEST):
        return _by_time(connection, wanted.bounded(connection), order, after=after, limit=limit)
    found: list[Key] = []
    if wanted.decisions and (after is None or after.value is not None):
        found = _by_confidence(connection, wanted, order, after=after, limit=limit)
        after = None
    if len(found) < limit and wanted.failures:
        failed = replace(wanted, decisions=(), class_ids=None)
        rest = _of_job(connection, failed, after=after, limit=limit - len(found))
        found += [key._replace(value=None) for key in rest]
    return found


def count(connection: Connection, wanted: Narrowed) -> int:
    """Return how many outcomes fit."""
    if wanted.class_ids == () or wanted.version_ids == ():
        return 0
    query = select(func.count()).select_from(OutcomeRow).where(*wanted.conditions(), *wanted.of_classes())
    return int(connection.execute(_of_listing(query, wanted)).scalar_one())


Branch = Select[*tuple[Any, ...]]


def _keys(connection: Connection, branches: Sequence[Branch], order: Order, limit: int) -> list[Key]:
    """Merge branches and list the first keys: of each as many as could be needed, along its own part of an index."""
    if not branches:
        return []
    if len(branches) == 1:
        query = branches[0].order_by(*_sorted(order, OutcomeRow)).limit(limit)
        return list(map(Key._make, connection.execute(query)))
    return _merged(
        connection, [part.order_by(*_sorted(order, OutcomeRow)).limit(limit) for part in branches], order, limit
    )


def _merged(connection: Connection, parts: Sequence[Branch], order: Order, limit: int) -> list[Key]:
    rows = union_all(*(select(part.subquery()) for part in parts)).subquery()
    query = select(rows.c.value, rows.c.job_id, rows.c.ordinal).order_by(*_sorted(order, rows.c)).limit(limit)
    return list(map(Key._make, connection.execute(query)))


def _sorted(order: Order, rows: Any) -> list[ColumnElement[Any]]:
    """Return what sorts `outcomes`, or merged rows of it."""
    columns = [rows.job_id, rows.ordinal]
    if order is not Order.BY_JOB:
        columns.insert(0, getattr(rows, "value", None) if rows is not OutcomeRow else _column(order))
    return [column.desc() if order.descending else column.asc() for column in columns]


def _column(order: Order) -> Any:
    return OutcomeRow.finished_at if order in (Order.NEWEST, Order.OLDEST) else OutcomeRow.confidence


def _of_listing(query: Branch, wanted: Narrowed) -> Branch:
    """Return the query for the images of the wanted listing, if one is wanted."""
    if wanted.listing is None:
        return query
    same = and_(ImageRow.job_id == OutcomeRow.job_id, ImageRow.ordinal == OutcomeRow.ordinal)
    return query.join(ImageRow, same).where(ImageRow.listing == wanted.listing)


def _branch(wanted: Narrowed, order: Order, *conditions: ColumnElement[bool], after: Key | None) -> Branch:
    """Return the wanted outcomes after a key; `conditions` are those in class and decision."""
    value: ColumnElement[Any] = null() if order is Order.BY_JOB else _column(order)  # then the index alone has the key
    query = select(value.label("value"), OutcomeRow.job_id, OutcomeRow.ordinal)
    query = _of_listing(query.where(*wanted.conditions(along=order), *conditions), wanted)
    if after is None:
        return query
    place, last = [OutcomeRow.job_id, OutcomeRow.ordinal], [after.job_id, after.ordinal]
    if order is not Order.BY_JOB:
        place, last = [_column(order), *place], [after.value, *last]  # type: ignore[list-item]
    row, key = tuple_(*place), tuple_(*(literal(value, column.type) for value, column in zip(last, place, strict=True)))
    return query.where(row < key if order.descending else row > key)


def _by_class(connection: Connection, wanted: Narrowed, order: Order, *, after: Key | None, limit: int) -> list[Key]:
    """Merge the rows of each class, which lie together in the index."""
    decided = wanted.of_decisions(hidden=order is Order.BY_JOB)
    if connection.dialect.name == "sqlite":
        return _by_class_in_turn(connection, wanted, order, after=after, limit=limit)
    ids = func.unnest(literal(wanted.class_ids, ARRAY(Integer))).table_valued("id", name="wanted").render_derived()
    of_class = _branch(wanted, order, OutcomeRow.class_id == ids.c.id, *decided, after=after)
    rows = of_class.order_by(*_sorted(order, OutcomeRow)).limit(limit).lateral()
    query = select(rows.c.value, rows.c.job_id, rows.c.ordinal).select_from(ids).join(rows, true())
    return list(map(Key._make, connection.execute(query.order_by(*_sorted(order, rows.c)).limit(limit))))


def _by_class_in_turn(
    connection: Connection, wanted: Narrowed, order: Order, *, after: Key | None, limit: int
) -> list[Key]:
    """Merge a cursor for each class, since SQLite has no lateral join: of each only the rows that are needed are read,
    and all have one statement.
    """
    of_class = OutcomeRow.class_id == bindparam("class_id")
    query = _branch(wanted, order, of_class, *wanted.of_decisions(hidden=order is Order.BY_JOB), after=after)
    query = _by_index(query, "job_class" if order is Order.BY_JOB else "class", wanted)
    query = query.order_by(*_sorted(order, OutcomeRow)).limit(limit)
    a_few = {"yield_per": 1 + limit // len(wanted.class_ids or ())}
    found = [connection.execute(query, {"class_id": each}, execution_options=a_few) for each in wanted.class_ids or ()]
    start = 1 if order is Order.BY_JOB else 0
    merged = heapq.merge(*found, key=lambda row: tuple(row[start:]), reverse=order.descending)
    rows = list(map(Key._make, islice(merged, limit)))
    for result in found:
        result.close()
    return rows


def _of_job(connection: Connection, wanted: Narrowed, *, after: Key | None, limit: int) -> list[Key]:
    """Along the job's part of the index of classes, or of failures, or along all of the job; few are sorted."""
    if wanted.few_classes:
        return _by_class(connection, wanted, Order.BY_JOB, after=after, limit=limit)
    if wanted.by_confidence and _are_few(connection, wanted.ranges(), FEW_COVERED):
        parts = [_branch(wanted, Order.BY_JOB, each, *wanted.of_class(), after=after) for each in wanted.ranges()]
        parts = [_all_of(part, "confidence", wanted, FEW_COVERED) for part in parts]
        return _merged(connection, parts, Order.BY_JOB, limit)
    all_of_it = _branch(wanted, Order.BY_JOB, *wanted.of_classes(hidden=True), after=after)
    return _keys(connection, [all_of_it], Order.BY_JOB, limit)


def _by_time(connection: Connection, wanted: Narrowed, order: Order, *, after: Key | None, limit: int) -> list[Key]:
    if _is_small_listing(connection, wanted):
        return _keys(connection, [_branch(wanted, order, *wanted.of_classes(hidden=True), after=after)], order, limit)
    if wanted.listing is None and wanted.few_classes:
        return _by_class(connection, wanted, order, after=after, limit=limit)
    if wanted.listing is None and wanted.by_confidence and _are_few(connection, wanted.ranges(), FEW_COVERED):
        parts = [_branch(wanted, order, each, *wanted.of_classes(), after=after) for each in wanted.ranges()]
        parts = [_all_of(part, "confidence", wanted, FEW_COVERED) for part in parts]
        return _merged(connection, parts, order, limit)
    if wanted.listing is None and wanted.decisions and not wanted.every_decision:
        decided = [OutcomeRow.decision == each for each in wanted.decisions]
        branches = [_branch(wanted, order, each, *wanted.of_classes(), after=after) for each in decided]
        return _keys(connection, [_by_index(branch, "decision", wanted) for branch in branches], order, limit)
    return _keys(connection, [_branch(wanted, order, *wanted.of_classes(), after=after)], order, limit)


def _by_confidence(
    connection: Connection, wanted: Narrowed, order: Order, *, after: Key | None, limit: int
) -> list[Key]:
    if _is_small_listing(connection, wanted):
        return _keys(connection, [_branch(wanted, order, *wanted.of_classes(hidden=True), after=after)], order, limit)
    if wanted.few_classes and _are_few(connection, wanted.each_class(), FEW):
        parts = [_branch(wanted, order, each, *wanted.of_decisions(), after=after) for each in wanted.each_class()]
        return _merged(connection, [_all_of(part, "class", wanted, FEW) for part in parts], order, limit)
    decided = [OutcomeRow.decision == each for each in wanted.decisions]
    branches = [_branch(wanted, order, each, *wanted.of_class(), after=after) for each in decided]
    return _keys(connection, [_by_index(branch, "confidence", wanted) for branch in branches], order, limit)


def _is_small_listing(connection: Connection, wanted: Narrowed) -> bool:
    """Return whether a listing is wanted that has few images, which its index finds and which are then sorted."""
    if wanted.listing is None:
        return False
    some = select(ImageRow.ordinal).where(ImageRow.listing == wanted.listing).limit(FEW + 1).subquery()
    return (connection.scalar(select(func.count()).select_from(some)) or 0) <= FEW


def _by_index(part: Branch, name: str, wanted: Narrowed) -> Branch:
    """Name the index for SQLite, which would rather sort all that another one covers. A listing has its own index."""
    if wanted.listing is not None:
        return part
    return part.with_hint(OutcomeRow.__table__, f"INDEXED BY ix_outcomes_{name}", "sqlite")


_ORDERED_BY = {"confidence": OutcomeRow.confidence, "class": OutcomeRow.finished_at}


def _all_of(part: Branch, index: str, wanted: Narrowed, few: int) -> Branch:
    """Return all of the few rows of a branch, in the order of the index that finds them, so that it is taken."""
    in_order = part.order_by(_ORDERED_BY[index], OutcomeRow.job_id, OutcomeRow.ordinal)
    return _by_index(in_order, index, wanted).limit(few + 1)


def _are_few(connection: Connection, parts: Sequence[ColumnElement[bool]], few: int) -> bool:
    """Return whether at most `few` outcomes fulfil these conditions together, looking at no more of them."""
    left = few
    for part in parts:
        some = select(OutcomeRow.ordinal).where(part).limit(left + 1).subquery()
        left -= connection.scalar(select(func.count()).select_from(some)) or 0
        if left < 0:
            return False
    return True
