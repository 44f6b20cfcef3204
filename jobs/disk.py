"""Writing files: whole or not at all, private where that is needed; and why something cannot be written."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from jobs.errors import OutputError

__all__ = ["check_writable", "new_file", "private_file", "private_folder", "replacing", "trouble"]


def trouble(error: OSError | int, folder: Path | str) -> str:
    """Return what is wrong with writing in `folder`, and what to do: the disk is full, read-only, may not be written,
    …
    """
    code = error if isinstance(error, int) else error.errno
    match code:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk that holds {folder} is full: make room there, or use another folder"
        case errno.EROFS:
            return f"the disk that holds {folder} is read-only: use another folder"
        case errno.EACCES | errno.EPERM:
            return f"nothing may be written in {folder}: change its permissions, or use another folder"
        case errno.ENOENT if not Path(folder).exists():
            return f"there is no folder {folder}: make it, or use another"
    reason = str(error) if code is None else "it takes no new files" if code == errno.ENOENT else os.strerror(code)
    return f"nothing can be written in {folder} ({reason[:1].lower()}{reason[1:]}): use another folder"


@contextmanager
def replacing(file: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Yield a stream to a new file beside `file` that takes its place at the end, or goes away with an error.

    `private`: no other user can read it.
    """
    draft = file.with_name(f".cars-{secrets.token_hex(8)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(draft, flags, 0o600 if private else 0o666), "wb") as stream:
            yield stream
        draft.replace(file)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def new_file(file: Path) -> Iterator[BinaryIO]:
    """Yield a stream to what replaces a user's `file` when it is whole. Raises OutputError."""
    target = file.resolve()
    if target.is_dir():
        raise OutputError(f"{file} is a folder: give the name of a file")
    try:
        with replacing(target) as stream:
            yield stream
    except OSError as exc:
        raise OutputError(f"{file} cannot be written: {trouble(exc, target.parent)}") from exc


def private_folder(folder: Path) -> None:
    """Make a folder that no other user can enter; one that is there stays as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def private_file(file: Path) -> None:
    """Make an empty file that no other user can read, whatever the umask; one that is there stays as it is.

    It is not even opened: closing any descriptor of a file drops all locks that this process has on it, and SQLite's
    locks are such. Another process would then seem to be alone, and remove the log that this one reads.
    """
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def check_writable(folder: Path) -> str | None:
    """Return what is wrong with writing in `folder`; None where nothing seems to be."""
    if not folder.is_dir():
        return trouble(errno.ENOENT if not folder.exists() else errno.ENOTDIR, folder)
    if os.access(folder, os.W_OK | os.X_OK):
        return None
    try:
        read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        read_only = False
    return trouble(errno.EROFS if read_only else errno.EACCES, folder)
