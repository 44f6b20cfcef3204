"""Results as a stream: asked of the database a page at a time, never held as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import shapes
from jobs.database import Database
from jobs.errors import SettingsInvalid
from jobs.queries import results, versions
from jobs.status import Decision, ImageStatus

if TYPE_CHECKING:
    import pandas

__all__ = ["Results", "make_filter", "moment"]

PAGE = 2_000
MAX_YEAR = 9_999


class Results:
    """The results that fit a filter, by job and path. Iterating asks the database anew, so a running job's grow."""

    def __init__(self, database: Database, wanted: results.Filter, *, top_k: int | None = None) -> None:
        self._database = database
        self._wanted = wanted
        self._top_k = top_k
        self._classes: dict[int, list[str]] = {}

    def __iter__(self) -> Iterator[shapes.Result]:
        after: tuple[int, int] | None = None
        while True:
            with self._database.read() as connection:
                rows = results.page(connection, self._wanted, after=after, limit=PAGE)
                classes = [self._class_names(connection, row.version_id) for row in rows]
            for row, names in zip(rows, classes, strict=True):
                yield shapes.result(row, classes=names, top_k=self._top_k)
            if len(rows) < PAGE:
                return
            after = (rows[-1].job_id, rows[-1].ordinal)

    def _class_names(self, connection: Any, version_id: int) -> list[str]:
        if version_id not in self._classes:
            row = versions.by_id(connection, version_id)
            self._classes[version_id] = row.card["classes"] if row is not None else []
        return self._classes[version_id]

    def write(self, path: str | Path) -> int:
        """Write `.csv`, `.jsonl`, `.json` or `.parquet`, by the file's ending; returns how many rows."""
        from jobs import export

        return export.write((row.to_dict() for row in self), Path(path))

    def to_pandas(self) -> pandas.DataFrame:
        """A pandas DataFrame, a row an image. Needs the extra `tables`."""
        from jobs import export

        return export.to_pandas(row.to_dict() for row in self)


def make_filter(job_id: int | None, **given: Any) -> results.Filter:
    """A filter from a user's arguments; SettingsInvalid names the one that cannot be used."""
    for name, allowed in (("decision", Decision), ("status", ImageStatus)):
        if given.get(name) is not None and given[name] not in list(allowed):
            raise SettingsInvalid(f"{name} must be one of {', '.join(allowed)}, not {given[name]!r}")
    for name in ("min_confidence", "max_confidence"):
        value = given.get(name)
        if value is not None and not 0 <= value <= 1:
            raise SettingsInvalid(f"{name} must lie between 0 and 1, not {value!r}")
    year = given.get("year")
    if year is not None and not 0 <= year <= MAX_YEAR:
        raise SettingsInvalid(f"year must be one such as 2012, not {year!r}")
    for name in ("since", "until"):
        if given.get(name) is not None:
            given[name] = moment(given[name])
    return results.Filter(job_id=job_id, **given)


def moment(value: str | date | datetime) -> datetime:
    """A point in time from ISO 8601 text, a date (its first moment) or a datetime; without an offset it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as exc:
            raise SettingsInvalid(
                f"{value!r} is no date or time; write 2026-01-31 or 2026-01-31T18:00:00+01:00"
            ) from exc
    elif not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value if value.tzinfo else value.replace(tzinfo=UTC)
