"""Local folders. Everything is opened relative to the source's own descriptor and no link is ever followed by the
system: a link is resolved here, step by step, and only inside the source.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from jobs.errors import ImageUnavailable
from jobs.sources.base import EXHAUSTED, MAX_DEPTH, OTHER, UNSURE, Look, TreeSource, too_large, why
from jobs.sources.kinds import HEAD_BYTES, Kind, kind, starts_like_an_image
from jobs.sources.paths import decode, encode
from jobs.sources.stamps import of_status
from jobs.states import ImageErrorCode, ImageFailure

__all__ = ["LocalSource"]

NAMES_HELD = 100_000
"""Names of one folder that are handled at a time: a larger folder is listed again for the next ones."""

MAX_LINKS = 40
"""Links in a row, as Linux has it."""

_STEP = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DOT = ord(".")
_GONE = (errno.ENOENT, errno.ENOTDIR)


class LocalSource(TreeSource[int]):
    """A folder of this machine; `paths` are the absolute paths it is known by, for links that name them."""

    def __init__(self, root: int, *, paths: tuple[bytes, ...], max_file_bytes: int) -> None:
        super().__init__()
        self._root = root
        self._text = encode(paths[-1])
        self._paths = tuple(_names(path) for path in paths)
        self._max_file_bytes = max_file_bytes

    def close(self) -> None:
        """Close the folder."""
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def _enter(self, name: bytes, *, within: int | None) -> int:
        # "." and not a duplicate: those of one descriptor share their place in the folder with every other scan.
        return os.open(name or b".", _LIST, dir_fd=self._open_root() if within is None else within)

    def _leave(self, folder: int) -> None:
        os.close(folder)

    def _keys(self, folder: int, floor: bytes) -> Iterator[bytes]:
        while True:
            keys, more = _smallest(folder, floor)
            yield from keys
            if not more:
                return
            floor = keys[-1] + b"\0"

    def _examine(self, path: str, *, folder: int) -> Look:  # noqa: ARG002 - a link may lead anywhere
        try:
            raw = decode(path)
            with self._located(raw) as (within, name, info):
                if stat.S_ISDIR(info.st_mode):
                    return Look(False)
                if not stat.S_ISREG(info.st_mode):
                    return Look(True, ImageFailure(ImageErrorCode.UNSUPPORTED, _kind(info.st_mode)))
                # A link to an image may have any name, and so may what it leads to.
                image = kind(raw.rpartition(b"/")[2]) is Kind.IMAGE or _looks_like_an_image(within, name)
                return Look(image, stamp=of_status(info))
        except ImageUnavailable as exc:
            return Look(True, exc.failure)

    def _stamp(self, name: bytes, *, folder: int) -> str | None:
        try:
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as exc:
            if exc.errno in EXHAUSTED:
                raise
            return None  # reading it will say why
        return of_status(info) if stat.S_ISREG(info.st_mode) else None

    def stamps(self, paths: Sequence[str]) -> Iterator[str | None]:
        """Yield the stamp of each path; see `Source.stamps`."""
        for path in paths:
            try:
                with self._located(decode(path)) as (_, _, info):
                    stamp = of_status(info) if stat.S_ISREG(info.st_mode) else None
            except (ImageUnavailable, ValueError):
                stamp = None
            yield stamp

    def read(self, path: str) -> bytes:
        """Return the bytes of an image; see `Source.read`."""
        limit = self._max_file_bytes
        if path.endswith("/"):
            raise ImageUnavailable(
                ImageErrorCode.UNREADABLE, "a folder that could not be listed: submit the source again"
            )
        try:
            with self._located(decode(path)) as (folder, name, info):
                _check(info, limit)
                descriptor = os.open(name, _FILE, dir_fd=folder)
            try:
                info = os.fstat(descriptor)
                _check(info, limit)
                return _content(descriptor, info.st_size, limit=limit)
            finally:
                os.close(descriptor)
        except OSError as exc:
            _fail(exc)
        except ValueError as exc:
            raise ImageUnavailable(ImageErrorCode.VANISHED, f"no file can have this path: {exc}") from exc

    def _open_root(self) -> int:
        if self._root < 0:
            raise RuntimeError("the source is closed")
        return self._root

    @contextmanager
    def _located(self, path: bytes) -> Iterator[tuple[int, bytes, os.stat_result]]:
        """(folder's descriptor, name in it, its status) of what `path` leads to, which is not a link."""
        trail = [self._open_root()]
        try:
            yield self._follow(path, trail)
        except OSError as exc:
            _fail(exc)
        finally:
            for descriptor in trail[1:]:
                os.close(descriptor)

    def _follow(self, path: bytes, trail: list[int]) -> tuple[int, bytes, os.stat_result]:
        """Walk `path`; `trail` are the descriptors from the source down to where it is, the caller's to close."""
        pending = path.split(b"/")[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(trail) == 1:
                    raise ImageUnavailable(ImageErrorCode.OUTSIDE_SOURCE, "a link leads above the source")
                os.close(trail.pop())
                continue
            if pending:
                if len(trail) > MAX_DEPTH:
                    raise ImageUnavailable(ImageErrorCode.UNREADABLE, f"folders are followed {MAX_DEPTH} levels deep")
                try:
                    trail.append(os.open(name, _STEP, dir_fd=trail[-1]))
                    continue
                except OSError as exc:
                    if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
            info = os.stat(name, dir_fd=trail[-1], follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise ImageUnavailable(
                        ImageErrorCode.UNREADABLE, f"more than {MAX_LINKS} links in a row, or links in a circle"
                    )
                pending += self._target(name, trail)
            elif pending:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            else:
                return trail[-1], name, info
        return trail[-1], b".", os.fstat(trail[-1])

    def _target(self, name: bytes, trail: list[int]) -> list[bytes]:
        """Return the names a link leads through, last first; for an absolute one the walk is put back to the source."""
        target = os.readlink(name, dir_fd=trail[-1])
        if not target.startswith(b"/"):
            return target.split(b"/")[::-1]
        names = _names(target)
        for base in self._paths:
            if names[: len(base)] == base:
                for descriptor in trail[1:]:
                    os.close(descriptor)
                del trail[1:]
                return names[len(base) :][::-1]
        raise ImageUnavailable(ImageErrorCode.OUTSIDE_SOURCE, f"a link leads out of the source, to {encode(target)}")


def _smallest(folder: int, floor: bytes) -> tuple[list[bytes], bool]:
    """Return the smallest keys of a folder from `floor` on, sorted, and whether there are more; at most twice
    NAMES_HELD in memory. Sorting a full list now and then takes a third of what a heap would.
    """
    keys: list[bytes] = []
    bound: bytes | None = None
    full = 2 * NAMES_HELD
    with os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            # Most names of a large folder belong to another pass: a name's key lies between it and it + "/".
            if name[0] == _DOT or name + b"0" <= floor or (bound is not None and name > bound):
                continue
            key = _key(entry, name)
            if key >= floor:
                keys.append(key)
            if len(keys) == full:
                keys.sort()
                del keys[NAMES_HELD:]
                bound = keys[-1]
    keys.sort()
    more = bound is not None or len(keys) > NAMES_HELD
    del keys[NAMES_HELD:]
    return keys, more


def _key(entry: os.DirEntry[str], name: bytes) -> bytes:
    """See `TreeSource._keys`."""
    said = kind(name)
    if entry.is_file(follow_symlinks=False):
        return name if said is Kind.IMAGE else name + (OTHER if said is Kind.OTHER else UNSURE)
    if entry.is_dir(follow_symlinks=False):
        return name + b"/"
    return name + (OTHER if said is Kind.OTHER else UNSURE)


def _looks_like_an_image(folder: int, name: bytes) -> bool:
    """Return whether the regular file starts like an image; OSError if it cannot be opened."""
    descriptor = os.open(name, _FILE, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        return starts_like_an_image(os.read(descriptor, HEAD_BYTES))
    finally:
        os.close(descriptor)


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _check(info: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise ImageUnavailable(ImageErrorCode.UNSUPPORTED, _kind(info.st_mode))
    if info.st_size > limit:
        raise too_large(info.st_size, limit)


def _content(descriptor: int, size: int, *, limit: int) -> bytes:
    """Return all of a file, however it grows or shrinks meanwhile, but never more than the limit."""
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data
    parts = [data]
    total = len(data)
    while data and total <= limit:
        data = os.read(descriptor, min(limit + 1 - total, 1 << 20))
        parts.append(data)
        total += len(data)
    if total > limit:
        raise too_large(None, limit)
    return b"".join(parts)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))
    return f"{next((name for test, name in kinds if test(mode)), 'a device')}, not a file"


def _fail(error: OSError) -> NoReturn:
    if error.errno in EXHAUSTED:
        raise error
    if error.errno in _GONE:
        raise ImageUnavailable(
            ImageErrorCode.VANISHED, "the file was there when the source was scanned, and is gone"
        ) from error
    if error.errno in (errno.ENXIO, errno.ENODEV):
        raise ImageUnavailable(ImageErrorCode.UNSUPPORTED, "not a file any more") from error
    raise ImageUnavailable(ImageErrorCode.UNREADABLE, f"the file cannot be read: {why(error)}") from error
