"""Statements on classes: what model versions have predicted, as numbers that outcomes refer to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from jobs.db.tables import ClassRow, PredictionRow

__all__ = ["CarClass", "ClassIds", "Part", "fill", "fitting", "stored_names"]


Part = Literal["label", "make", "model", "body"]


class CarClass(NamedTuple):
    """A class of a model version, taken apart; `make` may be another than the label's where only that one is sure."""

    label: str
    make: str
    model: str
    body: str | None
    year: int | None


class ClassIds:
    """The ids of the classes of model versions, remembered once a transaction has found them stored."""

    def __init__(self) -> None:
        self._stored: dict[tuple[int, str, str], int] = {}

    def of(self, connection: Connection, version_id: int, wanted: Iterable[CarClass]) -> dict[tuple[str, str], int]:
        """Return the id for each (label, make) of these classes; those that are new are stored."""
        classes = {(each.label, each.make): each for each in wanted}
        if any((version_id, *key) not in self._stored for key in classes):
            self._stored |= _stored(connection, version_id)
        found = {key: self._stored[version_id, *key] for key in classes if (version_id, *key) in self._stored}
        if missing := [classes[key] for key in sorted(classes.keys() - found.keys())]:
            _store(connection, version_id, missing)  # not remembered: the transaction may be rolled back
            fresh = _stored(connection, version_id)
            found |= {(each.label, each.make): fresh[version_id, each.label, each.make] for each in missing}
        return found


def _stored(connection: Connection, version_id: int) -> dict[tuple[int, str, str], int]:
    query = select(ClassRow.id, ClassRow.label, ClassRow.make).where(ClassRow.version_id == version_id)
    return {(version_id, row.label, row.make): row.id for row in connection.execute(query)}


def _store(connection: Connection, version_id: int, classes: list[CarClass]) -> None:
    """Store classes in one order, so that two transactions wait for each other and never both."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    rows = [{"version_id": version_id, **each._asdict()} for each in classes]
    connection.execute(dialect.insert(ClassRow).on_conflict_do_nothing(), rows)


def fitting(connection: Connection, *conditions: ColumnElement[bool]) -> list[int]:
    """Return the ids of the classes that fulfil the conditions."""
    return list(connection.scalars(select(ClassRow.id).where(*conditions).order_by(ClassRow.id)))


def stored_names(connection: Connection, part: Part) -> list[str]:
    """Return every name of this kind that a stored prediction has, or had."""
    column = {"label": ClassRow.label, "make": ClassRow.make, "model": ClassRow.model, "body": ClassRow.body}[part]
    return [name for name in connection.scalars(select(column).distinct().order_by(column)) if name is not None]


def fill(connection: Connection) -> None:
    """Store the classes of all predictions that are stored."""
    columns = ("version_id", "label", "make", "model", "body", "year")
    found = select(
        *(getattr(PredictionRow, name) for name in columns[:3]),
        *(func.min(getattr(PredictionRow, name)) for name in columns[3:]),
    ).group_by(PredictionRow.version_id, PredictionRow.label, PredictionRow.make)
    known = select(ClassRow.id).where(
        ClassRow.version_id == PredictionRow.version_id,
        ClassRow.label == PredictionRow.label,
        ClassRow.make == PredictionRow.make,
    )
    connection.execute(insert(ClassRow).from_select(columns, found.where(~known.exists())))
