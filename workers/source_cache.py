"""The sources that a process has open."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from jobs.settings import Settings
from jobs.sources import Source, check_listable, open_source

__all__ = ["SourceCache"]

MAX_SOURCES = 8


class SourceCache:
    """Remote sources by their canonical text, each opened once; at most `MAX_SOURCES`, of which the one used least
    recently goes first.
    """

    def __init__(self, settings: Settings) -> None:
        self._roots = settings.roots
        self._max_file_bytes = settings.max_file_bytes
        self._opened: OrderedDict[str, Source] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def open(self, text: str) -> Iterator[Source]:
        """Yield the open source of a job. Raises SourceMissing or SourceNotAllowed.

        A remote one is kept open for the next batch. A folder is not: another may have its name by then, and an open
        one stays the old one.
        """
        if text.startswith("/"):
            with self._open_anew(text) as source:
                yield source
            return
        with self._lock:
            if text not in self._opened:
                while len(self._opened) >= MAX_SOURCES:
                    self._opened.popitem(last=False)[1].close()
                self._opened[text] = self._open_anew(text)
            self._opened.move_to_end(text)
            source = self._opened[text]
        yield source

    def check(self, text: str) -> None:
        """Raise SourceError unless the root of a source can be opened anew and listed."""
        check_listable(text, roots=self._roots, max_file_bytes=self._max_file_bytes)

    def forget(self, text: str) -> None:
        """Open a source anew the next time."""
        with self._lock:
            source = self._opened.pop(text, None)
        if source is not None:
            source.close()

    def close(self) -> None:
        """Close all sources."""
        for source in self._opened.values():
            source.close()

    def _open_anew(self, text: str) -> Source:
        return open_source(text, roots=self._roots, max_file_bytes=self._max_file_bytes)
