"""Waking embedded workers by datagrams."""

from __future__ import annotations

import os
import select
import socket
import stat
from pathlib import Path

from jobs.wake import FOLDER, Listener, wake


def _is_woken(listener: Listener) -> bool:
    return bool(select.select([listener], [], [], 0)[0])


def test_a_worker_is_woken_once_for_all_that_came(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    assert not _is_woken(listener)
    for _ in range(2_000):  # more than its buffer holds
        wake(tmp_path)
    assert _is_woken(listener)
    listener.drain()
    assert not _is_woken(listener)
    listener.close()
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_the_socket_of_a_dead_worker_is_removed_and_the_others_are_woken(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(tmp_path / FOLDER / "1"))
    dead.close()
    wake(tmp_path)
    assert _is_woken(listener)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [str(os.getpid())]
    listener.close()


def test_only_the_owner_can_wake_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        listener = Listener(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / FOLDER / str(os.getpid())).stat().st_mode) == 0o600
    listener.close()


def test_where_a_socket_cannot_be_made_nothing_is_woken_and_nothing_fails(tmp_path: Path) -> None:
    wake(tmp_path)  # nobody has ever listened
    long = tmp_path / ("x" * 120)
    listener = Listener(long)
    wake(long)
    assert not _is_woken(listener)
    listener.close()
