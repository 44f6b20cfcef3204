"""Forking a child beside a thread that uses the database.

A child that is forked while the thread is inside SQLite inherits its mutexes, which nobody in the child will ever
open, and the belief that its own process holds the file's locks: every write in it would find the database busy.
"""

from __future__ import annotations

import os
from threading import Lock
from weakref import WeakSet

from jobs.db.database import Database

__all__ = ["protect", "steady"]

steady = Lock()  # held: nobody forks
_databases: WeakSet[Database] = WeakSet()


def protect(database: Database) -> None:
    """Give this process's connections back before each fork; whoever uses them in a thread holds `steady`."""
    _databases.add(database)


def _before() -> None:
    steady.acquire()
    for database in _databases:
        database.close()


os.register_at_fork(before=_before, after_in_parent=steady.release, after_in_child=steady.release)
