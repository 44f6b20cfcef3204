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
    from jobs.report.findings import Image
    from jobs.report.subject import ReportedJob

__all__ = ["Thumbnails", "take"]

SIZE = 280  # pixels of the longer side
MOST_BYTES = 9 << 20  # of all thumbnails; as text they take a third more
SECONDS = 20.0  # for reading and decoding all of them
READERS = 4  # of a remote source, where reading mostly waits; each may keep a whole file in memory

NO_PILLOW = "There are no thumbnails: this installation has no Pillow (pip install 'car-classifier[cpu]')."


@dataclass
class Thumbnails:
    """`images`: path to `data:` URL; `missing`: path to why there is none; `note`: what keeps all or many away."""

    images: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    note: str | None = None


def take(backend: Backend, job: ReportedJob, images: Sequence[Image]) -> Thumbnails:
    """Return what can be had of these images; nothing that keeps one away is an error."""
    if not images:
        return Thumbnails()
    if not can_decode():
        return Thumbnails(
            note="There are no thumbnails: this installation has no Pillow (pip install 'car-classifier[cpu]')."
        )
    preview = Preview(backend.settings)
    try:
        return _take(backend, job, images, preview)
    except SourceError as exc:
        return Thumbnails(note=f"There are no thumbnails: {exc}.")
    finally:
        preview.close()


def _take(backend: Backend, job: ReportedJob, images: Sequence[Image], preview: Preview) -> Thumbnails:
    found = Thumbnails()
    deadline = time.monotonic() + SECONDS
    room = MOST_BYTES
    try:
        for image, content in _read(backend, job, images):
            if time.monotonic() > deadline or room <= 0:
                why = "the file would be too large to mail" if room <= 0 else f"reading took over {SECONDS:.0f} s"
                found.note = f"Only {len(found.images):,} of {len(images):,} images are shown: {why}."
                break
            made = preview.thumbnail(content, size=SIZE) if isinstance(content, bytes) else content
            if isinstance(made, ImageFailure):
                found.missing[image.path] = made.message
            else:
                room -= len(made)
                found.images[image.path] = f"data:image/jpeg;base64,{b64encode(made).decode()}"
    except PreviewUnavailable as exc:
        found.note = f"Thumbnails are missing: {exc}."
    if not found.images and found.note is None:
        found.note = "There are no thumbnails: none of these images can be read any more."
    return found


def _read(backend: Backend, job: ReportedJob, images: Sequence[Image]) -> Iterator[tuple[Image, bytes | ImageFailure]]:
    """Yield each image with its bytes, or why they cannot be had. Raises SourceError."""
    settings = backend.settings
    with backend.database.read() as connection:
        row = jobs.get(connection, job.number)
    if row is None:
        raise SourceError(f"job {job.id} was deleted meanwhile")

    def read(image: Image) -> bytes | ImageFailure:
        try:
            content = source.read(image.path)
        except ImageUnavailable as exc:
            return exc.failure
        except OSError as exc:
            return ImageFailure(ImageErrorCode.UNREADABLE, exc.strerror or str(exc))
        if image.content_hash not in (None, hashlib.sha256(content).hexdigest()):
            return ImageFailure(ImageErrorCode.VANISHED, "the file is another one by now")
        return content

    readers = READERS if "://" in row.source else 1
    with (
        sources.open_source(row.source, roots=settings.roots, max_file_bytes=settings.max_file_bytes) as source,
        ThreadPoolExecutor(readers) as pool,
    ):
        for at in range(0, len(images), readers):
            some = images[at : at + readers]
            yield from zip(some, pool.map(read, some), strict=True)
