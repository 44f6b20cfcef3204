"""Corrections: what people say that images show, for the next training to learn."""

from __future__ import annotations

import csv
import difflib
import getpass
import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jobs import export, sources
from jobs.db.paging import pages
from jobs.db.queries import corrections, jobs, listings, versions
from jobs.disk import trouble
from jobs.errors import (
    CarClassifierError,
    ImageNotFound,
    ImageUnavailable,
    JobNotFound,
    NotPossible,
    OutputError,
    SettingsInvalid,
    SourceError,
)
from jobs.photo_store import CorrectionPhotoStore
from jobs.records import Correction, ImportedCorrections
from jobs.sources.kinds import HEAD_BYTES, starts_like_an_image
from jobs.states import ImageStatus

if TYPE_CHECKING:
    from jobs.backend import Backend

__all__ = ["Corrections", "add", "export_file", "import_file", "listing", "login_name", "remove"]

PAGE = 500
COLUMNS = ("content_hash", "label", "job", "path", "created_at", "author")
_OF_JOB = re.compile(r"(\d{1,18}):(.+)", re.DOTALL)


class _Wanted(NamedTuple):
    """A correction as it was asked for; `where` names the line, for errors."""

    image: str
    label: str
    where: str = ""
    author: str | None = None


Problems = dict[int, CarClassifierError]
"""What is wrong with which of the corrections that were asked for, by their place."""


class Corrections:
    """What a client knows of corrections; `client.corrections`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __iter__(self) -> Iterator[Correction]:
        return listing(self._backend)

    def add(self, image: str, label: str, *, new_class: bool = False, author: str | None = None) -> Correction:
        """Correct one image; see `Client.label`."""
        return add(self._backend, image, label, new_class=new_class, author=author)

    def remove(self, image: str) -> Correction:
        """Remove the correction of an image, `JOB:PATH`, a file or a content hash, and return it.

        Raises NotPossible where it has none, JobNotFound or ImageNotFound.
        """
        return remove(self._backend, image)

    def import_file(
        self,
        file: str | os.PathLike[str],
        *,
        new_class: bool = False,
        skip_bad: bool = False,
        author: str | None = None,
    ) -> ImportedCorrections:
        """Take all corrections of a CSV, or none; with `skip_bad` those of its lines that can be used.

        Its columns are `label` and `image`, or `label`, `job` and `path`, and perhaps `author`. Raises an error that
        names every line that cannot be used.
        """
        return import_file(self._backend, Path(file), new_class=new_class, skip_bad=skip_bad, author=author)


def add(backend: Backend, image: str, label: str, *, new_class: bool = False, author: str | None = None) -> Correction:
    """Correct one image, `JOB:PATH` or a file; see `Client.label`."""
    found, problems = _found(
        backend, [_Wanted(image, label, author=author or login_name())], base=Path(), new_class=new_class
    )
    _raise(problems, of=1)
    _write(backend, found)
    with backend.database.read() as connection:
        return Correction.from_row(corrections.by_hash(connection, found[0].content_hash))


def remove(backend: Backend, image: str) -> Correction:
    """Remove the correction of an image; see `Corrections.remove`."""
    content_hash, job_id = _Finder(backend, None, Path()).hash_of(_Wanted(image, ""))
    with backend.database.write() as connection:
        removed = corrections.remove(connection, content_hash)
        if removed is None:
            raise NotPossible(f"{image} has no correction; `cars labels export` writes all that there are")
        of_jobs = {number for number in (job_id, removed.job_id) if number is not None}
        listings.set_due(connection, [content_hash], of_jobs=of_jobs)
    for number in of_jobs:
        backend.notify("verdicts", number)
    return Correction.from_row(removed)


def import_file(
    backend: Backend, file: Path, *, new_class: bool = False, skip_bad: bool = False, author: str | None = None
) -> ImportedCorrections:
    """Correct every image that a CSV names, or with an error none; see `Corrections.import_file`."""
    wanted, problems = _read(file, author or login_name())
    base = file.parent
    found, others = _found(backend, wanted, base=base, new_class=new_class, except_for=problems)
    problems = dict(sorted((problems | others).items()))
    if not skip_bad:
        _raise(problems, of=len(wanted))
    _write(backend, found)
    return ImportedCorrections(taken=len(found), bad=[str(problem) for problem in problems.values()])


def login_name() -> str | None:
    """Return the name of whoever runs this program; None where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def _raise(problems: Problems, *, of: int) -> None:
    """Raise what is wrong, if anything is: one error as it is, several as one that names them all."""
    errors = list(problems.values())
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0]
    kinds = {type(error) for error in errors}
    kind = kinds.pop() if len(kinds) == 1 else NotPossible
    lines = "\n".join(map(str, errors))
    raise kind(f"{len(errors)} of {of} lines cannot be used, and no image was corrected (--skip-bad):\n{lines}")


def _write(backend: Backend, found: Sequence[corrections.Correction]) -> None:
    """Store corrections, and make the verdicts due that they change."""
    if not found:
        return
    of_jobs = {one.job_id for one in found if one.job_id is not None}
    with backend.database.write() as connection:
        corrections.put(connection, found)
        listings.set_due(connection, [one.content_hash for one in found], of_jobs=of_jobs)
    for number in sorted(of_jobs):
        backend.notify("verdicts", number)


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


def _found(
    backend: Backend,
    wanted: Sequence[_Wanted],
    *,
    base: Path,
    new_class: bool,
    except_for: Collection[int] = (),
) -> tuple[list[corrections.Correction], Problems]:
    """Find and read everything, before anything is written; return what can be, and what is wrong with the rest."""
    known = _known_classes(backend)
    problems: Problems = {}
    for index, one in enumerate(wanted):
        if index not in except_for and one.label not in known and not (new_class and one.label):
            problems[index] = NotPossible(one.where + _unknown_class(one.label, known))
    usable = {index: one for index, one in enumerate(wanted) if index not in problems and index not in except_for}
    finder = _Finder(backend, CorrectionPhotoStore(backend.settings.model_store), base)
    found, others = finder.find(usable)
    return found, problems | others


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
    """Finds the images that corrections mean, and stores their bytes, if there is where."""

    def __init__(self, backend: Backend, photo_store: CorrectionPhotoStore | None, base: Path) -> None:
        self._backend, self._photo_store, self._base = backend, photo_store, base

    def find(self, wanted: Mapping[int, _Wanted]) -> tuple[list[corrections.Correction], Problems]:
        """Return the corrections, in the order asked, and what is wrong with those that are none."""
        by_job: dict[int, dict[str, list[int]]] = {}
        found: dict[int, corrections.Correction] = {}
        problems: Problems = {}
        for index, one in wanted.items():
            if match := _OF_JOB.fullmatch(one.image):
                by_job.setdefault(int(match[1]), {}).setdefault(match[2], []).append(index)
                continue
            try:
                found[index] = corrections.Correction(self.hash_of(one)[0], one.label, author=one.author)
            except CarClassifierError as exc:
                problems[index] = exc
        for job_id, paths in by_job.items():
            for path, outcome in self._of_job(job_id, {path: wanted[at[0]] for path, at in paths.items()}):
                for index in paths[path]:
                    if isinstance(outcome, CarClassifierError):
                        problems[index] = outcome
                    else:
                        one = wanted[index]
                        found[index] = corrections.Correction(outcome, one.label, job_id, path, one.author)
        return [found[index] for index in sorted(found)], problems

    def hash_of(self, one: _Wanted) -> tuple[bytes, int | None]:
        """Return an image's content hash, and the job that it was named by. Raises JobNotFound, ImageNotFound or
        NotPossible.
        """
        if match := _OF_JOB.fullmatch(one.image):
            job_id, path = int(match[1]), match[2]
            row = self._row(job_id, [path], {path: one}).get(path)
            return self._checked(row, job_id, path, one), job_id
        if re.fullmatch("[0-9a-f]{64}", one.image):
            return self._of_hash(one), None
        return self._of_file(one), None

    def _of_hash(self, one: _Wanted) -> bytes:
        content_hash = bytes.fromhex(one.image)
        try:
            if self._photo_store is not None:
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
        return hashlib.sha256(content).digest() if self._photo_store is None else self._photo_store.store(content)

    def _row(
        self, job_id: int, paths: Sequence[str], wanted: Mapping[str, _Wanted]
    ) -> Mapping[str, corrections.CorrectedImage]:
        with self._backend.database.read() as connection:
            if jobs.get(connection, job_id) is None:
                raise JobNotFound(f"{next(iter(wanted.values())).where}no job '{job_id}'; `cars jobs` lists them")
            return corrections.images(connection, job_id, paths)

    @staticmethod
    def _checked(row: corrections.CorrectedImage | None, job_id: int, path: str, one: _Wanted) -> bytes:
        if row is None:
            raise ImageNotFound(f"{one.where}job {job_id} has no image {path}; `cars results {job_id}` lists them")
        if row.status != ImageStatus.OK or row.content_hash is None:
            raise NotPossible(f"{one.where}{path} of job {job_id} is {row.status}; correct images that were classified")
        return row.content_hash

    def _of_job(self, job_id: int, wanted: Mapping[str, _Wanted]) -> Iterator[tuple[str, bytes | CarClassifierError]]:
        """Yield the content hash of each path of a job, or what is wrong with it."""
        with self._backend.database.read() as connection:
            job = jobs.get(connection, job_id)
            rows = corrections.images(connection, job_id, list(wanted))
        if job is None:
            for path, one in wanted.items():
                yield path, JobNotFound(f"{one.where}no job '{job_id}'; `cars jobs` lists them")
            return
        settings = self._backend.settings
        try:
            source = sources.open_source(job.source, roots=settings.roots, max_file_bytes=settings.max_file_bytes)
        except SourceError as exc:
            yield from ((path, type(exc)(f"{one.where}{exc}")) for path, one in wanted.items())
            return
        with source:
            for path, one in wanted.items():
                try:
                    expected = self._checked(rows.get(path), job_id, path, one)
                    yield path, self._keep(source, path, one, expected=expected)
                except CarClassifierError as exc:
                    yield path, exc

    def _keep(self, source: sources.Source, path: str, one: _Wanted, *, expected: bytes) -> bytes:
        try:
            content = source.read(path)
        except ImageUnavailable as exc:
            raise ImageNotFound(f"{one.where}{path} cannot be read any more: {exc.message}") from exc
        assert self._photo_store is not None, "what is corrected is stored"
        content_hash = self._photo_store.store(content)
        if content_hash != expected:
            raise NotPossible(f"{one.where}{path} is another image than the one that was classified: submit it again")
        return content_hash


def _content(file: Path, *, limit: int) -> bytes | None:
    """The bytes of a file, no more than one above the limit; None for a FIFO or a device, which is not waited for."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        return stream.read(limit + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _read(file: Path, author: str | None) -> tuple[list[_Wanted], Problems]:
    """The lines of a CSV with `label` and one of: `image` or `file`; `job` and `path`; `content_hash`."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SettingsInvalid(f"{file} cannot be read as CSV in UTF-8: {exc}") from exc
    wanted: list[_Wanted] = []
    problems: Problems = {}
    for number, row in enumerate(rows, start=2):
        fields = {key: export.unguarded(value) for key, value in row.items() if key and isinstance(value, str)}
        if "label" not in fields:
            raise SettingsInvalid(f"{file} needs a first line with `label` and `image`, or `job,path,label`")
        where = f"{file}, line {number}: "
        image = fields.get("image") or fields.get("file") or _image(fields)
        if not image:
            problems[len(wanted)] = SettingsInvalid(
                f"{where}names no image: fill `image`, or `job` and `path`, or `content_hash`"
            )
        wanted.append(_Wanted(image, fields["label"].strip(), where, fields.get("author") or author))
    return wanted, problems


def _image(fields: Mapping[str, str]) -> str:
    """What the columns of an export name: by its hash, whose bytes are stored, else where it was seen."""
    if fields.get("content_hash"):
        return fields["content_hash"]
    return f"{fields['job']}:{fields['path']}" if fields.get("job") and fields.get("path") else ""
