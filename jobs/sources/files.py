"""Single files as a source: the folder that they have in common, and where in it they are."""

# ruff: noqa: PTH100, PTH111, PTH112, PTH113, PTH120

import os
from collections.abc import Sequence
from typing import NamedTuple

from jobs.errors import SourceMissing
from jobs.sources.addresses import canonical
from jobs.sources.paths import encode

__all__ = ["Listed", "listed"]


class Listed(NamedTuple):
    """A canonical source, and its files: None, all that it holds; else their encoded paths, sorted, each once."""

    source: str
    files: tuple[str, ...] | None = None


def listed(given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Listed:
    """Return what a user gave as a source: a folder or URL, or local files.

    Raises SourceMissing for files that are not there, for folders and URLs among files, and as `canonical` does.
    """
    several = not isinstance(given, (str, os.PathLike))
    texts = [os.fsdecode(given)] if isinstance(given, (str, os.PathLike)) else [os.fsdecode(one) for one in given]
    if not texts:
        raise SourceMissing("no folder and no file is named: give the folder or the files that are to be classified")
    if len(texts) == 1 and not (several or os.path.isfile(os.path.expanduser(texts[0]))):
        return Listed(canonical(texts[0]))
    paths = [os.fsencode(_absolute(text)) for text in texts]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    files = {encode(os.path.relpath(path, common)) for path in paths}
    return Listed(canonical(os.fsdecode(common)), tuple(sorted(files)))


def _absolute(text: str) -> str:
    """Return the absolute path of a file. A link stays one: workers follow it, inside the common folder."""
    path = os.path.abspath(os.path.expanduser(text))
    if not text or "\0" in text or not os.path.lexists(path):
        raise SourceMissing(f"{text!r} does not exist: give one folder or URL, or files of this machine")
    if os.path.isdir(path):
        raise SourceMissing(f"{text} is a folder among files: give one folder, or files only")
    return path
