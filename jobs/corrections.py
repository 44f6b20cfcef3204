"""Corrections: what people say that images show, for the next training to learn."""

from __future__ import annotations

import csv
import difflib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jobs import export, sources
from jobs.db.paging import pages
from jobs.db.queries import corrections, jobs, versions
from jobs.disk import trouble
from jobs.errors import ImageNotFound, ImageUnavailable, JobNotFound, NotPossible, OutputError, SettingsInvalid
from jobs.photo_store import CorrectionPhotoStore
from jobs.records import Correction
from jobs.sources.kinds import HEAD_BYTES, starts_like_an_image
from jobs.states import ImageStatus

if TYPE_CHECKING:
    from jobs.backend import Backend

__all__ = ["add", "export_file", "import_file", "listing"]

PAGE = 500
COLUMNS = ("content_hash", "label", "job", "path", "created_at")
_OF_JOB = re.compile(r"(\d{1,18}):(.+)", re.DOTALL)


class _Wanted(NamedTuple):
    """A correction as it was asked for; `where` names the line, for errors."""

    image: str
    label: str
    where: str = ""


def add(backend: Backend, image: str, label: str, *, new_class: bool = False) -> Correction:
    """Correct one image, `JOB:PATH` or a file; see `Client.label`."""
    (added,) = _put(backend, [_Wanted(image, label)], base=Path(), new_class=new_class)
    with backend.database.read() as connection:
        return Correction.from_row(corrections.by_hash(connection, added.content_hash))


def import_file(backend: Backend, file: Path, *, new_class: bool = False) -> int:
    """Correct every image that a CSV names, or with an error none; return the number of corrections."""
    return len(_put(backend, _read(file), base=file.parent, new_class=new_class))


def listing(backend: Backend) -> Iterator[Correction]:
    """Yield all corrections, in the order in which the images were first corrected."""

    def fetch(after: int | None, limit: int) -> Sequence[corrections.CorrectionRecord]:
        with backend.database.read() as connection:
            return corrections.page(connection, after=after or 0, limit=limit)

    for rows in pages(fetch, key=lambda row: row.id, size=PAGE):
        yield from map(Correction.from_row, rows)


def export_file(backend: Backend, file: Path) -> int:
    """Write all corrections as CSV, which `import_file` reads back; return their number."""
    if file.is_dir():
        raise OutputError(f"{file} is a folder: give the name of a file")
    try:
        with file.open("w", newline="", encoding="utf-8") as stream:
            return export.print_rows((one.to_dict() for one in listing(backend)), "csv", stream=stream, columns=COLUMNS)
    except OSError as exc:
        raise OutputError(f"{file} cannot be written: {trouble(exc, file.absolute().parent)}") from exc


def _put(backend: Backend, wanted: Sequence[_Wanted], *, base: Path, new_class: bool) -> list[corrections.Correction]:
    """Everything is found and read before anything is written."""
    known = _known_classes(backend)
    for one in wanted:
        if one.label not in known and not (new_class and one.label):
            raise NotPossible(one.where + _unknown_class(one.label, known))
    photo_store = CorrectionPhotoStore(backend.settings.model_store)
    found = _Finder(backend, photo_store, base).find(wanted)
    with backend.database.write() as connection:
        corrections.put(connection, found)
    return found


def _known_classes(backend: Backend) -> frozenset[str]:
    """The classes of every registered version, and those that corrections have brought."""
    with backend.database.read() as connection:
        trained = [row.card["classes"] for row in versions.page(connection)]
    return frozenset(chain(*trained, (one.label for one in listing(backend))))


def _unknown_class(name: str, known: Collection[str]) -> str:
    if not name:
        return "a correction needs a class, such as 'Acura TL Sedan 2012'"
    near = difflib.get_close_matches(name, sorted(known), n=3)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{name!r} is not a class that any model version knows{meant}; for a new class, add --new-class"


class _Finder:
    """Finds the images that corrections mean, and stores their bytes."""

    def __init__(self, backend: Backend, photo_store: CorrectionPhotoStore, base: Path) -> None:
        self._backend, self._photo_store, self._base = backend, photo_store, base

    def find(self, wanted: Sequence[_Wanted]) -> list[corrections.Correction]:
        """Return the corrections, in the order asked. Raises JobNotFound, ImageNotFound, NotPossible or SourceError."""
        by_job: dict[int, dict[str, list[int]]] = {}
        found: dict[int, corrections.Correction] = {}
        for index, one in enumerate(wanted):
            if match := _OF_JOB.fullmatch(one.image):
                by_job.setdefault(int(match[1]), {}).setdefault(match[2], []).append(index)
            elif re.fullmatch("[0-9a-f]{64}", one.image):
                found[index] = corrections.Correction(self._of_hash(one), one.label)
            else:
                found[index] = corrections.Correction(self._of_file(one), one.label)
        for job_id, paths in by_job.items():
            for path, content_hash in self._of_job(job_id, {path: wanted[at[0]] for path, at in paths.items()}):
                for index in paths[path]:
                    found[index] = corrections.Correction(content_hash, wanted[index].label, job_id, path)
        return [found[index] for index in range(len(wanted))]

    def _of_hash(self, one: _Wanted) -> bytes:
        content_hash = bytes.fromhex(one.image)
        try:
            self._photo_store.read(content_hash)
        except ImageNotFound as exc:
            raise ImageNotFound(f"{one.where}{exc}; name it as JOB:PATH or by its file") from exc
        return content_hash

    def _of_file(self, one: _Wanted) -> bytes:
        file = self._base / Path(one.image).expanduser()
        limit = self._backend.settings.max_file_bytes
        try:
            content = _content(file, limit=limit)
        except OSError as exc:
            raise ImageNotFound(
                f"{one.where}{one.image} cannot be read ({exc.strerror}): give JOB:PATH as in `cars results`, or an "
                "image file"
            ) from exc
        if content is None:
            raise NotPossible(f"{one.where}{file} is not a regular file: give JOB:PATH, or an image file")
        if len(content) > limit:
            raise NotPossible(f"{one.where}{file} is larger than CARS_MAX_FILE_MB allows")
        if not starts_like_an_image(content[:HEAD_BYTES]):
            raise NotPossible(
                f"{one.where}{file} is not an image that can be classified: give JOB:PATH, or an image file"
            )
        return self._photo_store.store(content)

    def _of_job(self, job_id: int, wanted: Mapping[str, _Wanted]) -> Iterator[tuple[str, bytes]]:
        with self._backend.database.read() as connection:
            job = jobs.get(connection, job_id)
            rows = corrections.images(connection, job_id, list(wanted))
        if job is None:
            raise JobNotFound(f"{next(iter(wanted.values())).where}no job '{job_id}'; `cars jobs` lists them")
        for path, one in wanted.items():
            if path not in rows:
                raise ImageNotFound(f"{one.where}job {job_id} has no image {path}; `cars results {job_id}` lists them")
            if rows[path].status != ImageStatus.OK:
                state = rows[path].status
                raise NotPossible(f"{one.where}{path} of job {job_id} is {state}; correct images that were classified")
        settings = self._backend.settings
        with sources.open_source(job.source, roots=settings.roots, max_file_bytes=settings.max_file_bytes) as source:
            for path, one in wanted.items():
                yield path, self._keep(source, path, one, expected=rows[path].content_hash)

    def _keep(self, source: sources.Source, path: str, one: _Wanted, *, expected: bytes | None) -> bytes:
        try:
            content_hash = self._photo_store.store(source.read(path))
        except ImageUnavailable as exc:
            raise ImageNotFound(f"{one.where}{path} cannot be read any more: {exc.message}") from exc
        if content_hash != expected:
            raise NotPossible(f"{one.where}{path} is another image than the one that was classified: submit it again")
        return content_hash


def _content(file: Path, *, limit: int) -> bytes | None:
    """The bytes of a file, no more than one above the limit; None for a FIFO or a device, which is not waited for."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        return stream.read(limit + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _read(file: Path) -> list[_Wanted]:
    """The lines of a CSV with `label` and one of: `image` or `file`; `job` and `path`; `content_hash`."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SettingsInvalid(f"{file} cannot be read as CSV in UTF-8: {exc}") from exc
    wanted = []
    for number, row in enumerate(rows, start=2):
        fields = {key: export.unguarded(value) for key, value in row.items() if key and isinstance(value, str)}
        if "label" not in fields:
            raise SettingsInvalid(f"{file} needs a first line with `label` and `image`, or `job,path,label`")
        where = f"{file}, line {number}: "
        image = fields.get("image") or fields.get("file") or _image(fields)
        if not image:
            raise SettingsInvalid(f"{where}names no image: fill `image`, or `job` and `path`, or `content_hash`")
        wanted.append(_Wanted(image, fields["label"].strip(), where))
    return wanted


def _image(fields: Mapping[str, str]) -> str:
    """What the columns of an export name: by its hash, whose bytes are stored, else where it was seen."""
    if fields.get("content_hash"):
        return fields["content_hash"]
    return f"{fields['job']}:{fields['path']}" if fields.get("job") and fields.get("path") else ""
