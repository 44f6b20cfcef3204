"""Thumbnails for the report: read through the source, decoded by the child process, embedded as data.

Within limits of time and of size; a source that is gone, or an installation without Pillow, gives a report without.
"""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs import sources
from jobs.db.queries import jobs
from jobs.errors import ImageUnavailable, PreviewUnavailable, SourceError
from jobs.preview import Preview, can_decode
from jobs.states import ImageErrorCode, ImageFailure

if TYPE_CHECKING:
    from jobs.backend import Backend
    from jobs.job import Job
    from jobs.report.findings import Photo

__all__ = ["Pictures", "take"]

SIZE = 280  # pixels of the longer side
MOST_BYTES = 9 << 20  # of all thumbnails; as text they take a third more
SECONDS = 20.0  # for reading and decoding all of them
READERS = 4  # of a remote source, where reading mostly waits; each may keep a whole file in memory

NO_PILLOW = "There are no pictures: this installation has no Pillow (pip install 'car-classifier[cpu]')."


@dataclass
class Pictures:
    """`images`: path to `data:` URL; `missing`: path to why there is none; `note`: what keeps all or many away."""

    images: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    note: str | None = None


def take(backend: Backend, job: Job, photos: Sequence[Photo]) -> Pictures:
    """Return what can be had of these photos; nothing that keeps one away is an error."""
    if not photos:
        return Pictures()
    if not can_decode():
        return Pictures(
            note="There are no pictures: this installation has no Pillow (pip install 'car-classifier[cpu]')."
        )
    preview = Preview(backend.settings)
    try:
        return _take(backend, job, photos, preview)
    except SourceError as exc:
        return Pictures(note=f"There are no pictures: {exc}.")
    finally:
        preview.close()


def _take(backend: Backend, job: Job, photos: Sequence[Photo], preview: Preview) -> Pictures:
    found = Pictures()
    deadline = time.monotonic() + SECONDS
    room = MOST_BYTES
    try:
        for photo, content in _read(backend, job, photos):
            if time.monotonic() > deadline or room <= 0:
                why = "the file would be too large to mail" if room <= 0 else f"reading took over {SECONDS:.0f} s"
                found.note = f"Only {len(found.images):,} of {len(photos):,} photos are shown: {why}."
                break
            made = preview.thumbnail(content, size=SIZE) if isinstance(content, bytes) else content
            if isinstance(made, ImageFailure):
                found.missing[photo.path] = made.message
            else:
                room -= len(made)
                found.images[photo.path] = f"data:image/jpeg;base64,{b64encode(made).decode()}"
    except PreviewUnavailable as exc:
        found.note = f"Pictures are missing: {exc}."
    if not found.images and found.note is None:
        found.note = "There are no pictures: none of these photos can be read any more."
    return found


def _read(backend: Backend, job: Job, photos: Sequence[Photo]) -> Iterator[tuple[Photo, bytes | ImageFailure]]:
    """Yield each photo with its bytes, or why they cannot be had. Raises SourceError."""
    settings = backend.settings
    with backend.database.read() as connection:
        row = jobs.get(connection, job.number)
    if row is None:
        raise SourceError(f"job {job.id} was deleted meanwhile")

    def read(photo: Photo) -> bytes | ImageFailure:
        try:
            content = source.read(photo.path)
        except ImageUnavailable as exc:
            return exc.failure
        except OSError as exc:
            return ImageFailure(ImageErrorCode.UNREADABLE, exc.strerror or str(exc))
        if photo.content_hash not in (None, hashlib.sha256(content).hexdigest()):
            return ImageFailure(ImageErrorCode.VANISHED, "the file is another one by now")
        return content

    readers = READERS if "://" in row.source else 1
    with (
        sources.open_source(row.source, roots=settings.roots, max_file_bytes=settings.max_file_bytes) as source,
        ThreadPoolExecutor(readers) as pool,
    ):
        for at in range(0, len(photos), readers):
            some = photos[at : at + readers]
            yield from zip(some, pool.map(read, some), strict=True)
