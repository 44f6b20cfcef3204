"""Results as a stream: asked of the database a page at a time, never held as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import records
from jobs.db.database import Database
from jobs.db.queries import results, versions
from jobs.states import ResultOrder

if TYPE_CHECKING:
    import pandas

__all__ = ["Results"]

PAGE = 2_000


class Results:
    """The results that fit a filter, by job and path unless they are sorted. Iterating asks the database anew, so a
    running job's grow; sorted ones are those of the moment at which iterating begins."""

    def __init__(
        self,
        database: Database,
        wanted: results.Filter,
        *,
        top_k: int | None = None,
        order: ResultOrder | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> None:
        self._database = database
        self._wanted = wanted
        self._top_k = top_k
        self._order, self._reverse, self._limit = order, reverse, limit
        self._classes: dict[int, list[str]] = {}

    def __iter__(self) -> Iterator[records.Result]:
        sorting = self._order is not None or self._reverse
        for rows in self._in_order() if sorting else self._pages():
            for row in rows:
                yield records.result(row, classes=self._class_names(row.version_id), top_k=self._top_k)

    def _pages(self) -> Iterator[Sequence[Any]]:
        after: tuple[int, int] | None = None
        left = self._limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            with self._database.read() as connection:
                rows = results.page(connection, self._wanted, after=after, limit=size)
            yield rows
            if len(rows) < size:
                return
            after = (rows[-1].job_id, rows[-1].ordinal)
            left = left and left - len(rows)

    def _in_order(self) -> Iterator[Sequence[Any]]:
        options: dict[str, Any] = {"order": self._order, "reverse": self._reverse, "limit": self._limit, "size": PAGE}
        with self._database.snapshot() as connection:
            yield from results.in_order(connection, self._wanted, **options)

    def _class_names(self, version_id: int) -> list[str]:
        if version_id not in self._classes:
            with self._database.read() as connection:
                row = versions.by_id(connection, version_id)
            self._classes[version_id] = row.card["classes"] if row is not None else []
        return self._classes[version_id]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many images have each `status`, each `decision` and, where it was decided, each `make`, and how many
        failed with each error `code`; the most frequent first. Neither `limit` nor order matter."""
        found: dict[str, Counter[str]] = {"status": Counter(), "decision": Counter(), "make": Counter()}
        failed: Counter[str] = Counter()
        with self._database.read() as connection:
            rows = results.counts(connection, self._wanted)
        for row in rows:
            found["status"][row.status] += row.images
            if row.decision is not None:
                found["decision"][row.decision] += row.images
            if row.make is not None and row.decision in ("model", "make"):
                found["make"][row.make] += row.images
            if row.error_code is not None:
                failed[row.error_code] += row.images
        return {name: dict(counter.most_common()) for name, counter in {**found, "code": failed}.items()}

    def write(self, path: str | Path) -> int:
        """Write `.csv`, `.jsonl`, `.json` or `.parquet`, by the file's ending; returns how many rows."""
        from jobs import export

        return export.write((row.to_dict() for row in self), Path(path))

    def to_pandas(self) -> pandas.DataFrame:
        """A pandas DataFrame, a row an image. Needs the extra `tables`."""
        from jobs import export

        return export.to_pandas(row.to_dict() for row in self)
