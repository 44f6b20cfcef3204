"""Reading files of an artifact that somebody else made: regular files only, of a bounded size, and nothing outside."""

import os
import stat
from pathlib import Path
from typing import Final

from model.errors import ArtifactUnsafe

__all__ = ["FILE_BYTES", "check_kinds", "read_regular"]

FILE_BYTES: Final = 512 << 20
"""The largest file that is read: the float32 weights of a ResNet34 have 85 MB."""

_MOST_FILES: Final = 10_000
# O_NONBLOCK: opening a FIFO would else wait for somebody to write into it.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_regular(path: Path, *, limit: int = FILE_BYTES) -> bytes:
    """Return the bytes of a regular file, whose size is checked before one is read.

    Raises ArtifactUnsafe for a link, a FIFO, a device, and for more than `limit` bytes; OSError if it cannot be opened.
    """
    _check_kind(path, path.lstat().st_mode)
    descriptor = os.open(path, _READ)
    try:
        info = os.fstat(descriptor)
        _check_kind(path, info.st_mode)  # what is there now
        if info.st_size > limit:
            raise ArtifactUnsafe(f"{path} has {info.st_size:,} bytes; at most {limit:,} are read")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(info.st_size)
    finally:
        os.close(descriptor)


def check_kinds(folder: Path) -> list[Path]:
    """Return the regular files anywhere in the folder, sorted; raises ArtifactUnsafe for anything else but folders in
    it, and for more files than any artifact has.
    """
    found: list[Path] = []
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(at, name)
            if not stat.S_ISDIR(mode := path.lstat().st_mode):
                _check_kind(path, mode)
        found += [Path(at, name) for name in files]
        if len(found) > _MOST_FILES:
            raise ArtifactUnsafe(f"{folder} has more than {_MOST_FILES:,} files; give the folder of one version")
    return sorted(found)


def _check_kind(path: Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise ArtifactUnsafe(f"{path} is a link; an artifact holds only its own files")
    if not stat.S_ISREG(mode):
        raise ArtifactUnsafe(f"{path} is not a regular file; an artifact holds nothing else")
