"""Listings: the verdicts on them, one with its images, and contents that several share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from jobs import cursors, results
from jobs.db.paging import pages
from jobs.db.queries import jobs, listing_pages, listings
from jobs.errors import JobNotFound, ListingNotFound, SettingsInvalid
from jobs.filters import make_filter
from jobs.job import Job
from jobs.records import Listing, ListingDetails, SharedContent, TopLabel

if TYPE_CHECKING:
    from datetime import date, datetime
    from typing import Unpack

    from jobs.backend import Backend

__all__ = ["ListingFilters", "ListingPage", "Listings", "Verdicts"]

PAGE = 500
_OF_JOB = re.compile(r"(\d{1,18}):(.+)", re.DOTALL)


class ListingFilters(TypedDict, total=False):
    """What listings can be filtered by; see `Listings.find`."""

    make: str | None
    label: str | None
    decision: str | None
    conflict: bool
    needs_review: bool
    min_confidence: float | None
    max_confidence: float | None
    since: str | date | datetime | None


class Listings:
    """What a client knows of listings; `client.listings`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def find(self, job: str | Job | None = None, **wanted: Unpack[ListingFilters]) -> Verdicts:
        """Return the verdicts on the listings of a job, by name, or without a job of the current run of each source.

        Filters: make, label, decision, conflict, needs_review, min_confidence, max_confidence, since (when the verdict
        was given), written as for `Client.results`. They come by job and name; those that need review, are in conflict
        or lie within confidences with conflicts first, then by rising confidence.

        Raises JobNotFound, SettingsInvalid, and LabelNotFound for a name that nothing has.
        """
        number = None if job is None else self._number(job)
        conflict, needs_review = bool(wanted.pop("conflict", False)), bool(wanted.pop("needs_review", False))
        if unknown := wanted.keys() - ListingFilters.__annotations__.keys():
            raise SettingsInvalid(f"no such filter: {', '.join(sorted(unknown))}")
        names: Any = make_filter(self._backend.database, None, **wanted)
        fields = {field: getattr(names, field) for field in wanted}
        fitting = listing_pages.Filter(conflict=conflict, needs_review=needs_review, **fields)
        asked = {"job": number, "conflict": conflict, "needs_review": needs_review, **fields}
        return Verdicts(self._backend, number, fitting, asked=asked)

    def get(self, listing: str) -> ListingDetails:
        """Return a listing, `JOB:NAME`, with its images. Raises JobNotFound, ListingNotFound or SettingsInvalid."""
        match = _OF_JOB.fullmatch(listing)
        if match is None:
            raise SettingsInvalid(f"{listing!r} names no listing: give JOB:NAME, as in `cars listings`")
        number, name = self._number(match[1]), match[2]
        with self._backend.database.read() as connection:
            row = listing_pages.get(connection, number, name)
        if row is None:
            raise ListingNotFound(
                f"job {number} has no verdict on a listing {name!r}; `cars listings {number}` lists those that it has"
            )
        found = results.find(self._backend, number, listing=name)
        return ListingDetails(verdict=Listing.from_row(row), top=[*map(_top, row.top)], images=list(found))

    def duplicates(self, job: str | Job) -> Iterator[SharedContent]:
        """Yield the contents that occur in several listings of a job. Raises JobNotFound."""
        number = self._number(job)
        with self._backend.database.snapshot() as connection:
            found = listings.shared(connection, number)
            for content_hash, same in groupby(found, key=lambda row: row.content_hash):
                rows = list(same)
                yield SharedContent(
                    job=str(number),
                    content_hash=content_hash.hex(),
                    listings=list(dict.fromkeys(row.listing for row in rows)),
                    paths=[row.path for row in rows],
                )

    def _number(self, job: str | Job) -> int:
        handle = job if isinstance(job, Job) else Job(self._backend, str(job))
        with self._backend.database.read() as connection:
            if jobs.get(connection, handle.number) is None:
                raise JobNotFound(f"no job {handle.id!r}; `cars jobs` lists them")
        return handle.number


def _top(row: Mapping[str, Any]) -> TopLabel:
    return {"label": row["label"], "confidence": row["confidence"]}


class ListingPage(NamedTuple):
    """Some verdicts, and the cursor of those that follow; None where these are the last."""

    listings: list[Listing]
    next: str | None


class Verdicts:
    """The verdicts that fit a filter. Iterating asks the database anew, a page at a time."""

    def __init__(
        self, backend: Backend, job_id: int | None, wanted: listing_pages.Filter, *, asked: Mapping[str, object]
    ) -> None:
        self._backend = backend
        self._job_id = job_id
        self._wanted = wanted
        self._asked = asked

    def __iter__(self) -> Iterator[Listing]:
        def fetch(after: listing_pages.ListingRecord | None, limit: int) -> Sequence[listing_pages.ListingRecord]:
            return self._rows(None if after is None else _place(after), limit=limit)

        for rows in pages(fetch, key=lambda row: row, size=PAGE):
            yield from map(Listing.from_row, rows)

    def page(self, after: str | None = None, *, limit: int = 100) -> ListingPage:
        """Return the next listings after a cursor, which an earlier page of the same query has returned as `next`.

        Raises SettingsInvalid for a cursor of another query.
        """
        place = None
        if after is not None:
            kinds = ((int,), (bool,), (float, int), (str,))
            place = listing_pages.Place(*cursors.decode_values(after, asked=self._asked, kinds=kinds))
        rows = self._rows(place, limit=limit)
        full = len(rows) == limit
        following = cursors.encode_values(_place(rows[-1]), asked=self._asked) if full else None
        return ListingPage(list(map(Listing.from_row, rows)), following)

    def _rows(self, after: listing_pages.Place | None, *, limit: int) -> Sequence[listing_pages.ListingRecord]:
        with self._backend.database.read() as connection:
            runs = [self._job_id] if self._job_id is not None else sorted(listings.current(connection))
            return listing_pages.page(connection, runs, self._wanted, after=after, limit=limit)

    def first(self, count: int) -> list[Listing]:
        """Return the first ones."""
        return list(islice(self, count))

    def write(self, path: str | Path) -> int:
        """Write `.csv`, `.jsonl`, `.json` or `.parquet`, by the file's ending; return the number of rows."""
        from jobs import export

        return export.write_listings((row.to_dict() for row in self), Path(path))


def _place(row: listing_pages.ListingRecord) -> listing_pages.Place:
    return listing_pages.Place(row.job_id, row.conflict, row.confidence, row.name)
