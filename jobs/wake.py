"""Waking the workers of the embedded default: a datagram to the socket that each one has in CARS_HOME.

A client cannot reach the broker inside a worker. It writes its rows; a worker that is not woken finds them at its next
tick, so that losing a datagram loses nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from jobs.disk import private_folder

__all__ = ["Listener", "wake"]

FOLDER: Final = "wake"


def wake(home: Path) -> None:
    """Wake every worker that listens in `home`; the socket of one that has ended is removed."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for path in (home / FOLDER).iterdir():
            try:
                sender.sendto(b"\n", str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:  # its buffer is full, so that it wakes in any case; or its path is too long for a socket
                continue


class Listener:
    """The socket of one worker, for `select`; nothing ever comes where none can be made (its path is too long)."""

    def __init__(self, home: Path) -> None:
        self._path = home / FOLDER / str(os.getpid())
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with suppress(OSError):
            private_folder(self._path.parent)
            self._path.unlink(missing_ok=True)  # of a worker that had the same pid
            self._socket.bind(str(self._path))
            self._path.chmod(0o600)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Read and drop what has come."""
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(16)

    def close(self) -> None:
        """Close the socket and remove its file."""
        self._socket.close()
        with suppress(OSError):
            self._path.unlink()
