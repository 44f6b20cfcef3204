"""A child that is forked while a thread of its parent writes to SQLite can write itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.processes import environment

PARENT = """
import os, sys, threading, warnings
from sqlalchemy import text
from jobs.db import database
from workers import fork_safety

warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from Python 3.12
database.BUSY_SECONDS = 5
url = sys.argv[1]
mine = database.Database(url)
with mine.write() as connection:
    connection.execute(text("CREATE TABLE cars_schema (number integer)"))
fork_safety.protect(mine)

def write_slowly(inside):
    with fork_safety.fork_lock, mine.write() as connection:
        connection.execute(text("INSERT INTO cars_schema VALUES (1)"))
        inside.set()
        threading.Event().wait(0.2)  # a fork that does not wait for the end comes now

failed = 0
for _ in range(3):
    inside = threading.Event()
    thread = threading.Thread(target=write_slowly, args=(inside,))
    thread.start()
    inside.wait()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            own = database.Database(url)
            with own.write() as connection:
                connection.execute(text("INSERT INTO cars_schema VALUES (2)"))
            code = 0
        finally:
            os._exit(code)
    failed += os.waitpid(pid, 0)[1] != 0
    thread.join()
with mine.read() as connection:
    print(failed, connection.scalar(text("SELECT count(*) FROM cars_schema WHERE number = 2")))
"""


def test_fork_beside_a_writing_thread(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, f"sqlite:///{tmp_path / 'cars.db'}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == ["0", "3"], done.stderr
