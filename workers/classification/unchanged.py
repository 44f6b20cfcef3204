"""What a scan knows of an image from the run before, without reading it.

Base and scan are in the same order, that of the raw paths (of a manifest's files: the encoded ones), so that both are
walked side by side, in memory that grows with neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from jobs.db.database import Database
from jobs.db.queries import incremental, jobs, predictions
from jobs.db.queries.images import Settled
from jobs.settings import Settings
from jobs.sources import Entry, decode
from jobs.states import ImageErrorCode
from workers.release import release

__all__ = ["BaseWalk", "keep", "reader", "shrunk"]

PAGE = 4_096  # images of the base that are asked for at once
SAME_AGAIN = frozenset(
    {
        ImageErrorCode.UNDECODABLE,
        ImageErrorCode.TRUNCATED,
        ImageErrorCode.DAMAGED,
        ImageErrorCode.TOO_LARGE,
        ImageErrorCode.UNSUPPORTED,
    }
)
"""What is said of the bytes alone, by a release with its limits."""


def reader(settings: Settings) -> str:
    """Return what decides, besides its bytes, whether an image can be used: the release and its limits."""
    return f"{release()}, {settings.max_pixels} pixels, {settings.max_file_bytes} bytes"


class BaseWalk:
    """A walk through the images of the base, led by the paths that a scan finds.

    `after`: the path after which the scan continues. A base that is deleted meanwhile simply ends.
    """

    def __init__(self, database: Database, job: jobs.JobRecord, *, reader: str, after: str | None) -> None:
        self._database = database
        self._base_id = job.base_id or 0
        self._key: Callable[[str], bytes] = decode if job.manifest is None else str.encode  # what both are sorted by
        self._rows: deque[tuple[bytes, incremental.BaseImage]] = deque()
        with database.read() as connection:
            base = incremental.base(connection, self._base_id)
            self._ended = base is None
            self._same_reader = base is not None and base.read_with == reader
            self._ordinal = self._place(connection, after=self._key(after)) - 1 if after and base else -1

    def known(self, found: Sequence[Entry]) -> dict[str, Settled]:
        """Return what the base knows of those images that have not changed, by path. Entries come in order."""
        return {entry.path: one for entry in found if entry.error is None and (one := self._find(entry)) is not None}

    def _find(self, entry: Entry) -> Settled | None:
        if entry.stamp is None:
            return None
        key = self._key(entry.path)
        while (first := self._first()) is not None and first[0] < key:
            self._rows.popleft()
        if first is None or first[0] != key or first[1].stamp != entry.stamp:
            return None
        row = first[1]
        if row.error is not None and not (self._same_reader and row.error.code in SAME_AGAIN):
            return None
        return Settled(row.content_hash, row.error)

    def _first(self) -> tuple[bytes, incremental.BaseImage] | None:
        if not self._rows and not self._ended:
            with self._database.read() as connection:
                rows = incremental.page(connection, self._base_id, after=self._ordinal, limit=PAGE)
            self._rows.extend((self._key(row.path), row) for row in rows)
            self._ended = len(rows) < PAGE
            self._ordinal = rows[-1].ordinal if rows else self._ordinal
        return self._rows[0] if self._rows else None

    def _place(self, connection: Connection, *, after: bytes) -> int:
        """Return the ordinal of the base's first image past a key, or one past its last: found by halving."""
        low, high = 0, incremental.last(connection, self._base_id) + 1
        while low < high:
            middle = (low + high) // 2
            found = incremental.first_from(connection, self._base_id, middle)
            if found is None or self._key(found[1]) > after:
                high = middle
            else:
                low = found[0] + 1
        return low


def keep(
    connection: Connection, version_id: int, known: Mapping[str, Settled]
) -> tuple[dict[str, Settled], dict[bytes, predictions.Fact]]:
    """Return those of the images that are settled for this version, by path, and what their predictions say: not one
    that it has not seen yet. The predictions stay until the end of the transaction, and then the images refer to them.
    """
    hashes = {one.content_hash for one in known.values() if one.error is None and one.content_hash is not None}
    facts = predictions.protect(connection, version_id, hashes)
    return {path: one for path, one in known.items() if one.error is not None or one.content_hash in facts}, facts


def shrunk(connection: Connection, job_id: int) -> str | None:
    """Return why a job whose scan is over must not count: it has found less than half of its base's images, as if a
    disk were away. None where all is well, or this was accepted at submission.
    """
    job = jobs.get(connection, job_id)
    if job is None or job.base_id is None or job.accept_shrink:
        return None
    base = incremental.base(connection, job.base_id)
    if base is None or 2 * job.total >= base.total:
        return None
    images = "1 image" if job.total == 1 else f"{job.total:,} images"
    return f"the source has {images}, the run before had {base.total:,}: is it mounted? If so: --accept-shrink"
