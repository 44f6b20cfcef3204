"""What a submission asks for, and in what it differs from the job that has its key already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from jobs.db.queries import jobs, listed_files
from jobs.errors import SettingsInvalid
from jobs.redaction import redacted
from jobs.sources.files import Listed
from jobs.states import Priority

__all__ = ["Request"]

PAGE = 2_000
MOST_LABELS = 32_000


@dataclass(frozen=True, kw_only=True)
class Request:
    """One submission, checked. Raises SettingsInvalid for what cannot be used."""

    listed: Listed
    name: str | None
    model: str | None
    top_k: int
    priority: str
    key: str | None

    def __post_init__(self) -> None:
        if self.priority not in list(Priority):
            raise SettingsInvalid(f"priority must be one of {', '.join(Priority)}, not {self.priority!r}")
        if self.top_k < 1:
            raise SettingsInvalid(f"top_k must be at least 1, not {self.top_k}")
        if self.key is not None and not 0 < len(self.key) <= 200:
            raise SettingsInvalid("key must have 1 to 200 characters")

    @property
    def row(self) -> dict[str, Any]:
        """The job's columns, but for its version."""
        return {
            "source": self.listed.source,
            "name": self.name or self._default_name(),
            "key": self.key,
            "top_k": min(self.top_k, MOST_LABELS),
            "priority": Priority(self.priority).rank,
        }

    def _default_name(self) -> str:
        files = self.listed.files or ()
        source = files[0] if len(files) == 1 else redacted(self.listed.source).rstrip("/")
        return source.rpartition("/")[2] or source or "/"

    def store_files(self, connection: Connection, job_id: int) -> None:
        """Keep the list of files, if that is the source; a file's listing is the folder it is in, as in a scan."""
        if self.listed.files is not None:
            files = (listed_files.ListedFile(path.rpartition("/")[0] or None, path) for path in self.listed.files)
            listed_files.add(connection, job_id, files)

    def differences(self, connection: Connection, job_id: int) -> Iterator[str]:
        """In what a job is not what is asked for. A name or version that is not asked for is no difference."""
        job = jobs.get(connection, job_id)
        if job is None:  # deleted meanwhile, as its handle will say
            return
        wanted = self.row | {"priority": self.priority}
        known = job._asdict() | {"priority": next(p.value for p in Priority if p.rank == job.priority)}
        fields = ["source", "top_k", "priority", *(["name"] if self.name else [])]
        yield from (f"its {f} is {known[f]}, not {wanted[f]}" for f in fields if known[f] != wanted[f])
        if self.model not in (None, "production", job.model_version):
            yield f"its model version is {job.model_version}, not {self.model}"
        if job.source == self.listed.source and _files(connection, job_id) != self.listed.files:
            yield "its files are others"


def _files(connection: Connection, job_id: int) -> tuple[str, ...] | None:
    """The job's list of files, sorted, or None if it has all that its source holds."""
    if not listed_files.any_of(connection, job_id):
        return None
    found: list[str] = []
    while rows := listed_files.page(connection, job_id, after=found[-1] if found else None, limit=PAGE):
        found += [row.path for row in rows]
    return tuple(found)
