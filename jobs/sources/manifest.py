"""Which listing an image belongs to: by the folders of its path, or by a manifest, a CSV inside the source."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from typing import Final

from jobs.sources.base import Entry
from jobs.sources.paths import encode

__all__ = ["LARGEST_DEPTH", "ManifestInvalid", "listing_of", "manifest_path", "read_manifest"]

LARGEST_DEPTH: Final = 10
_LONGEST_NAME = 2_000  # bytes: an index of PostgreSQL takes no more than about 2,700
_COLUMNS = ("listing", "path")


class ManifestInvalid(Exception):
    """A manifest that cannot be used; the text names the file, the line and the reason."""


def listing_of(path: str, *, depth: int) -> str | None:
    """Return the first `depth` folders of an encoded path; None where it has none, or `depth` is 0.

    A name that is too long for an index is cut, and ends in a digest of the whole.
    """
    folders = path.split("/")[:-1][:depth]
    return _fitting("/".join(folders)) if folders else None


def _fitting(name: str) -> str:
    raw = name.encode()
    if len(raw) <= _LONGEST_NAME:
        return name
    start = raw[: _LONGEST_NAME - 40].decode(errors="ignore")
    return f"{start}…{hashlib.sha256(raw).hexdigest()[:32]}"


def manifest_path(text: str) -> str:
    """Return a manifest's encoded path in its source. Raises ValueError for one that is not relative to it."""
    raw = text.encode("utf-8", "surrogateescape")
    if wrong := _what_is_wrong(raw):
        raise ValueError(f"the manifest {text!r} {wrong}: give its path relative to the source")
    return encode(raw)


def read_manifest(content: bytes, name: str) -> Iterator[Entry]:
    """Yield an entry for each line of a CSV with the columns `listing` and `path`; an empty `listing` is none.

    `name` is the manifest's, for messages. Raises ManifestInvalid at the line that cannot be used.
    """
    text = content.decode("utf-8-sig", "surrogateescape")
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise ManifestInvalid(
                f"{name}, line 1: there is no column {missing[0]!r}; it needs {' and '.join(_COLUMNS)}"
            )
        lines: dict[str, int] = {}
        for row in rows:
            where = f"{name}, line {rows.line_num}"
            raw = (row["path"] or "").encode("utf-8", "surrogateescape")
            path = encode(raw)
            if wrong := _what_is_wrong(raw):
                raise ManifestInvalid(f"{where}: the path {path!r} {wrong}; paths are relative to the source")
            if path in lines:
                raise ManifestInvalid(
                    f"{where}: the path {path!r} is that of line {lines[path]}, too; keep one of them"
                )
            lines[path] = rows.line_num
            listing = encode((row["listing"] or "").encode("utf-8", "surrogateescape"))
            yield Entry(path, _fitting(listing) if listing else None)
    except csv.Error as exc:
        raise ManifestInvalid(f"{name}, line {rows.line_num}: it cannot be read as CSV: {exc}") from exc
    if not lines:
        raise ManifestInvalid(f"{name} lists no images; below its first line it needs a line for each")


def _what_is_wrong(raw: bytes) -> str | None:
    if not raw:
        return "is empty"
    if raw.startswith(b"/"):
        return "is absolute"
    parts = raw.split(b"/")
    if b".." in parts:
        return "has a '..'"
    if b"" in parts or b"." in parts:
        return "has an empty part or a '.'"
    return None
