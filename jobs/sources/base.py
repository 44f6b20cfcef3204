"""What a scan gives, and the walk through a tree of folders that local and remote sources share."""

import errno
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from jobs.errors import ImageUnavailable, SourceMissing
from jobs.sources.kinds import LeftOut, suffix
from jobs.sources.paths import decode, encode, resume_point
from jobs.states import ImageErrorCode, ImageFailure

__all__ = ["EXHAUSTED", "MAX_DEPTH", "OTHER", "UNSURE", "Entry", "Look", "Source", "TreeSource", "too_large", "why"]

Folder = TypeVar("Folder")

MAX_DEPTH = 100
"""Folders within folders; each level holds a file descriptor while a scan is below it."""

OTHER = b"\0"
"""Ends the key of a file that is not an image."""
UNSURE = b"\0\0"
"""Ends the key of what must be looked at first: a link, a FIFO, a device, a file whose suffix says nothing."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Says nothing about an image or a folder, only about this process now: never written into a row."""

_SLASH = ord("/")


class Entry(NamedTuple):
    """One image of a source, or one thing in it that cannot be read: then `error` says why.

    `path` is relative to the source and encoded (see `paths.encode`); that of a folder which cannot be listed ends in a
    slash. `listing` is the encoded folder the file is in, None at the top of the source. `stamp` changes when the bytes
    do (see `stamps`); None where the listing does not tell.
    """

    path: str
    listing: str | None
    error: ImageFailure | None = None
    stamp: str | None = None


class Look(NamedTuple):
    """What a look at something whose name does not say enough has found: whether it makes an entry, the entry's error
    and stamp.
    """

    counts: bool
    error: ImageFailure | None = None
    stamp: str | None = None


class Source(ABC):
    """A folder of images. Several threads may read at once; close it when none does any more."""

    def __init__(self) -> None:
        self.left_out = LeftOut()
        """How many files of each suffix are not images (dotfiles apart) before the last entry of the running scan, in
        the order of the scan; counts of a scan that was cut off and of the one that resumed it therefore add up to
        those of a single scan."""

    @property
    def skipped(self) -> int:
        """How many files `left_out` counts."""
        return self.left_out.total()

    @abstractmethod
    def scan(self, *, after: str | None = None) -> Generator[Entry, None, None]:
        """Yield every image once, by the raw bytes of the path; memory does not grow with the source.

        `after`: the `path` of the last entry that was handled; what comes up to it is left out. Raises `SourceMissing`
        when the source itself cannot be listed.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the bytes of the image at an entry's `path`; raises `ImageUnavailable` with the code that its row
        gets.
        """

    def stamps(self, paths: Sequence[str]) -> Iterator[str | None]:
        """Yield the stamp of each of these paths, which are sorted, as a scan would give it; None for what a scan would
        not find, or where that is not known. Raises `SourceMissing` when the source cannot be listed.
        """
        return iter([None] * len(paths))

    def close(self) -> None:
        """Close what is open."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Level(Generic[Folder]):
    """One folder that a walk is in."""

    __slots__ = ("folder", "keys", "prefix", "resumed")

    def __init__(self, folder: Folder, keys: Iterator[bytes], *, prefix: str, resumed: tuple[bytes, bytes]) -> None:
        self.folder = folder
        self.keys = keys
        self.prefix = prefix
        self.resumed = resumed


class TreeSource(Source, Generic[Folder]):
    """A source that is listed folder by folder, depth first: the order of the whole paths, as object stores have it."""

    _text: str
    """The source as messages name it."""

    @abstractmethod
    def _enter(self, name: bytes, *, within: Folder | None) -> Folder:
        """Open a folder (None: the source); OSError if it cannot be."""

    @abstractmethod
    def _leave(self, folder: Folder) -> None:
        """Close what `_enter` opened."""

    @abstractmethod
    def _keys(self, folder: Folder, floor: bytes) -> Iterator[bytes]:
        """Yield the sorted keys from `floor` on: a name, with a slash for a folder, else with nothing, OTHER or
        UNSURE.
        """

    def _examine(self, path: str, *, folder: Folder) -> Look:
        """Look at a key that is UNSURE, in this folder. What cannot be examined makes an entry, so that its row says
        why.
        """
        raise NotImplementedError(path)

    @abstractmethod
    def _stamp(self, name: bytes, *, folder: Folder) -> str | None:
        """Return the stamp of an image in a folder."""

    def scan(self, *, after: str | None = None) -> Generator[Entry, None, None]:
        """Yield every image once; see `Source.scan`."""
        self.left_out = LeftOut()
        levels: list[_Level[Folder]] = []
        try:
            levels.append(self._level(b"", within=None, after=decode(after or "")))
            while levels:
                try:
                    yield from self._until_folder(levels)
                except OSError as exc:
                    if len(levels) == 1 or exc.errno in EXHAUSTED:
                        raise
                    failed = levels.pop()
                    self._leave(failed.folder)
                    yield _unlisted(failed.prefix, why(exc))
        except OSError as exc:
            if exc.errno in EXHAUSTED:
                raise
            raise SourceMissing(f"{self._text} cannot be listed: {why(exc)}") from exc
        finally:
            for level in levels:
                self._leave(level.folder)

    def _until_folder(self, levels: list[_Level[Folder]]) -> Iterator[Entry]:
        """Yield the entries of the deepest level up to its next folder, which is added to `levels`; at its end it
        goes.
        """
        level = levels[-1]
        prefix = level.prefix
        listing = prefix[:-1] or None
        for key in level.keys:
            last = key[-1]
            if last == _SLASH:
                within = prefix + encode(key)
                if len(levels) > MAX_DEPTH:
                    yield _unlisted(within, f"folders are followed {MAX_DEPTH} levels deep")
                    continue
                try:
                    name, inside = level.resumed
                    levels.append(self._level(key[:-1], within=level, after=inside if key == name else b""))
                except OSError as exc:
                    if exc.errno in EXHAUSTED:
                        raise
                    if not isinstance(exc, FileNotFoundError):
                        yield _unlisted(within, why(exc))
                    continue
                return
            if last:
                yield Entry(prefix + encode(key), listing, stamp=self._stamp(key, folder=level.folder))
            elif key.endswith(UNSURE):
                path = prefix + encode(key[:-2])
                look = self._examine(path, folder=level.folder)
                if look.counts:
                    yield Entry(path, listing, look.error, look.stamp)
                else:
                    self.left_out.add(suffix(key[:-2]))
            else:
                self.left_out.add(suffix(key[:-1]))
        levels.pop()
        self._leave(level.folder)

    def _level(self, name: bytes, *, within: _Level[Folder] | None, after: bytes) -> _Level[Folder]:
        folder = self._enter(name, within=within.folder if within else None)
        floor, child, inside = resume_point(after)
        prefix = f"{within.prefix}{encode(name)}/" if within else ""
        return _Level(folder, self._keys(folder, floor), prefix=prefix, resumed=(child, inside))


def _unlisted(path: str, reason: str) -> Entry:
    parent = path[:-1].rpartition("/")[0]
    return Entry(
        path, parent or None, ImageFailure(ImageErrorCode.UNREADABLE, f"the folder cannot be listed: {reason}")
    )


def why(error: BaseException) -> str:
    """Return the reason that an exception gives, without the path, which the row has already."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def too_large(size: int | None, limit: int) -> ImageUnavailable:
    """Return the error of a file of `size` bytes, None where all that is known is that it passes the limit."""
    has = "the file has" if size is None else f"the file has {size / 1e6:,.1f} MB,"
    return ImageUnavailable(
        ImageErrorCode.TOO_LARGE, f"{has} more than the {limit / 1e6:,.1f} MB allowed (CARS_MAX_FILE_MB)"
    )
