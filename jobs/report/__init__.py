"""The report on a job: one HTML file that opens without a network and can be mailed.

findings    what the job has come to, collected in one pass over its results
thumbnails  those of the images worth a look, from the child process that decodes
page        the Jinja2 environment, which the web console uses, too
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jobs.db.queries import listings
from jobs.disk import new_file
from jobs.report.findings import LISTINGS, collect
from jobs.report.page import environment
from jobs.report.thumbnails import take

if TYPE_CHECKING:
    from jobs.backend import Backend
    from jobs.report.subject import ReportedJob

__all__ = ["MOST_IMAGES", "Written", "write"]

MOST_IMAGES = 2_000  # a browser shows no more at once, and nobody looks at more


class Written(NamedTuple):
    """How many images are in a report, and what keeps others from being there."""

    images: int
    note: str | None


def write(backend: Backend, job: ReportedJob, file: Path, *, images: int) -> Written:
    """Write the report on a job with at most so many images; see `Job.report`. Raises OutputError, JobNotFound."""
    with backend.database.read() as connection:
        in_conflict = listings.in_conflict(connection, job.number, limit=LISTINGS)
    with new_file(file) as stream:
        findings = collect(job, images=images, in_conflict=in_conflict)
        wanted = [image for group in findings.groups for image in group.images]
        thumbnails = take(backend, job, wanted)
        template = environment().get_template("report.html")
        parts = template.generate(
            found=findings,
            thumbnails=thumbnails.images,
            why_not=thumbnails.missing,
            note=thumbnails.note,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        for part in parts:
            stream.write(part.encode("utf-8", "replace"))
    return Written(len(thumbnails.images), thumbnails.note)
