"""Forking a child beside a thread that uses the database.

A child that is forked while the thread is inside SQLite inherits its mutexes, which nothing in the child will ever
unlock, and the belief that its own process holds the file's locks: every write in it would find the database busy.
"""

from __future__ import annotations

import os
from threading import Lock
from weakref import WeakSet

from jobs.db.database import Database

__all__ = ["fork_lock", "protect"]

fork_lock = Lock()  # no fork while it is locked
_databases: WeakSet[Database] = WeakSet()


def protect(database: Database) -> None:
    """Close this process's connections before each fork; whoever uses them in a thread does so under `fork_lock`."""
    _databases.add(database)


def _before() -> None:
    fork_lock.acquire()
    for database in _databases:
        database.close()


os.register_at_fork(before=_before, after_in_parent=fork_lock.release, after_in_child=fork_lock.release)
