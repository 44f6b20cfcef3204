"""Results as a stream: asked of the database a page at a time, never as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from jobs.db.database import Database
from jobs.db.paging import pages
from jobs.db.queries import results, versions
from jobs.errors import SettingsInvalid
from jobs.filters import checked_order, make_filter
from jobs.records import Result
from jobs.states import ResultOrder

if TYPE_CHECKING:
    from datetime import date, datetime
    from typing import Unpack

    import pandas

    from jobs.backend import Backend
    from jobs.export import Columns

__all__ = ["ResultFilters", "Results", "find"]

PAGE = 2_000


class ResultFilters(TypedDict, total=False):
    """What results can be filtered, sorted and limited by; see `Client.results`."""

    label: str | None
    make: str | None
    model: str | None
    body: str | None
    year: int | None
    decision: str | None
    min_confidence: float | None
    max_confidence: float | None
    listing: str | None
    since: str | date | datetime | None
    until: str | date | datetime | None
    version: str | None
    status: str | None
    top_k: int | None
    sort: Literal["confidence", "path", "time"] | None
    reverse: bool
    limit: int | None


def find(backend: Backend, job_id: int | None, /, **wanted: Unpack[ResultFilters]) -> Results:
    """Return the results of a job, or of all, that fit; see `Client.results`."""
    top_k, limit = wanted.pop("top_k", None), wanted.pop("limit", None)
    for name, value in (("top_k", top_k), ("limit", limit)):
        if value is not None and value < 1:
            raise SettingsInvalid(f"{name} must be at least 1, not {value}")
    order, reverse = checked_order(wanted.pop("sort", None)), wanted.pop("reverse", False)
    fitting = make_filter(backend.database, job_id, **wanted)
    return Results(backend.database, fitting, top_k=top_k, order=order, reverse=reverse, limit=limit)


class Results:
    """The results that fit a filter, by job and path unless they are sorted.

    Iterating asks the database anew, so a running job's grow; sorted ones are those of the moment at which iterating
    begins.
    """

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

    def __iter__(self) -> Iterator[Result]:
        sorting = self._order is not None or self._reverse
        for rows in self._in_order() if sorting else self._pages():
            for row in rows:
                yield Result.from_row(row, classes=self._class_names(row.version_id), top_k=self._top_k)

    def _pages(self) -> Iterator[Sequence[results.ResultRecord]]:
        def fetch(after: tuple[int, int] | None, limit: int) -> Sequence[results.ResultRecord]:
            with self._database.read() as connection:
                return results.page(connection, self._wanted, after=after, limit=limit)

        return pages(fetch, key=lambda row: (row.job_id, row.ordinal), size=PAGE, limit=self._limit)

    def _in_order(self) -> Iterator[Sequence[results.ResultRecord]]:
        with self._database.snapshot() as connection:
            yield from results.in_order(
                connection, self._wanted, order=self._order, reverse=self._reverse, limit=self._limit, size=PAGE
            )

    def _class_names(self, version_id: int) -> list[str]:
        if version_id not in self._classes:
            with self._database.read() as connection:
                row = versions.by_id(connection, version_id)
            self._classes[version_id] = row.card["classes"] if row is not None else []
        return self._classes[version_id]

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the images by `status`, `decision`, `make` (where it was decided) and error `code`.

        The most frequent come first. Neither `limit` nor order matter.
        """
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
        """Write `.csv`, `.jsonl`, `.json` or `.parquet`, by the file's ending; return the number of rows."""
        from jobs import export

        return export.write(self._columns(), Path(path))

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas DataFrame with one row per image; needs the extra `tables`."""
        from jobs import export

        return export.to_pandas(self._columns())

    def _columns(self) -> Iterator[Columns]:
        from jobs import export

        sorting = self._order is not None or self._reverse
        found = self._in_order() if sorting else self._pages()
        for rows in found if self._database.sqlite else export.ahead(found):
            yield export.columns(rows, classes=self._class_names, top_k=self._top_k)
