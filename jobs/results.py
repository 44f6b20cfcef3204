"""Results as a stream: asked of the database a page at a time, never as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypedDict, TypeVar

from jobs import cursors
from jobs.db.database import Database
from jobs.db.paging import pages
from jobs.db.queries import jobs, results, versions, walks
from jobs.db.queries.walks import Key, Order
from jobs.errors import SettingsInvalid
from jobs.filters import checked_order, make_filter
from jobs.records import Result
from jobs.states import JobState, ResultOrder

if TYPE_CHECKING:
    from datetime import date, datetime
    from typing import Unpack

    import pandas
    from sqlalchemy import Connection

    from jobs.backend import Backend
    from jobs.export import Columns

__all__ = ["Page", "ResultFilters", "Results", "find"]

T = TypeVar("T")


class Prefetch(Protocol):
    """Passes pages on, which it may fetch before they are asked for."""

    def __call__(self, pages: Iterator[T], /) -> Iterator[T]: ...


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
    asked = {"job": job_id, **{name: value for name, value in sorted(wanted.items()) if value not in (None, False)}}
    order, reverse = checked_order(wanted.pop("sort", None)), wanted.pop("reverse", False)
    fitting = make_filter(backend.database, job_id, **wanted)
    return Results(backend.database, fitting, top_k=top_k, order=order, reverse=reverse, limit=limit, asked=asked)


class Page(NamedTuple):
    """Some results, and the cursor of those that follow; None where these are the last."""

    results: list[Result]
    next: str | None


class Results:
    """The results that fit a filter: a job's by path, those of all jobs newest first, unless they are sorted.

    Iterating asks the database anew, page by page, so that a running job's results grow. Those of all jobs are the
    images that are finished, unless `status` asks for others.
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
        asked: Mapping[str, object] | None = None,
    ) -> None:
        self._database = database
        self._wanted = wanted
        self._top_k = top_k
        self._order, self._reverse, self._limit = order, reverse, limit
        self._asked = asked or {}
        self._classes: dict[int, list[str]] = {}

    def __iter__(self) -> Iterator[Result]:
        for rows in self._pages(results.records, _themselves):
            yield from map(self._result, rows)

    def page(self, after: str | None = None, *, limit: int = 100) -> Page:
        """Return the next results after a cursor, which an earlier page of the same query has returned as `next`.

        Raises SettingsInvalid for a cursor of another query, and for an order that has no pages.
        """
        walk = self._walk()
        if walk is None:
            raise SettingsInvalid("results sorted by path, and those of a running job that are sorted, have no pages")
        key = None if after is None else cursors.decode(after, asked=self._asked)
        keys = walk(key, limit)
        with self._database.read() as connection:
            rows = results.records(connection, keys)
        following = cursors.encode(keys[-1], asked=self._asked) if len(keys) == limit else None
        return Page(list(map(self._result, rows)), following)

    @property
    def paged(self) -> bool:
        """Whether `page` can be asked for them: an index has their order."""
        return self._walk() is not None

    def _pages(
        self,
        read: Callable[[Connection, Sequence[Key]], T],
        of_rows: Callable[[Sequence[results.ResultRecord]], T],
        *,
        prefetch: Prefetch = iter,
    ) -> Iterator[T]:
        """Yield what is stored of the results, some at a time, as `read` reads it by their keys.

        `of_rows` makes the same of rows, for an order that has no keys.
        """
        walk = self._walk()
        if walk is None:
            with self._database.snapshot() as connection:
                rows = results.in_order(
                    connection, self._wanted, order=self._order, reverse=self._reverse, limit=self._limit, size=PAGE
                )
                yield from map(of_rows, rows)
            return
        for keys in prefetch(pages(walk, key=lambda key: key, size=PAGE, limit=self._limit)):
            with self._database.read() as connection:
                found = read(connection, keys)
            yield found

    def _walk(self) -> Callable[[Key | None, int], Sequence[Key]] | None:
        """Return what lists the next keys; None where no index has the order."""
        if self._wanted.unfinished and self._wanted.job_id is None and not self._sorted:
            return self._walk_unfinished
        if self._wanted.job_id is not None and not self._sorted:
            return self._walk_job
        if self._order is ResultOrder.PATH or self._wanted.unfinished or not self._all_finished():
            return None
        by_confidence = self._order is ResultOrder.CONFIDENCE
        backwards, forwards = (Order.UNSUREST, Order.SUREST) if by_confidence else (Order.OLDEST, Order.NEWEST)
        order = backwards if self._reverse else forwards

        def walk(after: Key | None, limit: int) -> Sequence[Key]:
            with self._database.read() as connection:
                return walks.keys(connection, self._wanted.narrowed(connection), order, after=after, limit=limit)

        return walk

    @property
    def _sorted(self) -> bool:
        return self._order is not None or self._reverse

    def _all_finished(self) -> bool:
        """Return whether every image of the job, if it is one job's, has an outcome; of all jobs those are listed."""
        if self._wanted.job_id is None:
            return True
        with self._database.read() as connection:
            job = jobs.get(connection, self._wanted.job_id)
        if job is None or self._order is None:
            return job is None
        return JobState(job.state).terminal and job.ok + job.failed == job.total

    def _walk_job(self, after: Key | None, limit: int) -> Sequence[Key]:
        with self._database.read() as connection:
            return results.page(connection, self._wanted, after=after, limit=limit)

    def _walk_unfinished(self, after: Key | None, limit: int) -> Sequence[Key]:
        """Walk through the jobs that have unfinished images, the newest first."""
        found: list[Key] = []
        with self._database.read() as connection:
            for job_id in results.unfinished_jobs(connection, self._wanted, from_job=after and after.job_id):
                of_job = replace(self._wanted, job_id=job_id)
                last = after if after is not None and after.job_id == job_id else None
                found += results.page(connection, of_job, after=last, limit=limit - len(found))
                if len(found) == limit:
                    break
        return found

    def _result(self, row: results.ResultRecord) -> Result:
        return Result.from_row(row, classes=self._class_names(row.version_id), top_k=self._top_k)

    def _class_names(self, version_id: int) -> list[str]:
        if version_id not in self._classes:
            with self._database.read() as connection:
                self._classes[version_id] = versions.classes(connection, version_id)
        return self._classes[version_id]

    def count(self) -> int:
        """Return how many results there are, whatever `limit` says.

        It costs the same with any number of them, unless a listing, a confidence or a time is asked for.
        """
        with self._database.read() as connection:
            return results.count(connection, self._wanted)

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

        prefetch: Prefetch = iter if self._database.sqlite else export.ahead  # another process, which works meanwhile
        for given in prefetch(self._pages(results.columns, results.transposed, prefetch=prefetch)):
            yield export.columns(given, classes=self._class_names, top_k=self._top_k)


def _themselves(rows: Sequence[results.ResultRecord]) -> Sequence[results.ResultRecord]:
    return rows
