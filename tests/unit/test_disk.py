"""A disk in trouble, and Ctrl-C: what the person is told."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import Client, polling
from jobs.disk import private_file
from jobs.errors import DatabaseUnavailable


@pytest.mark.parametrize(
    ("pragma", "words"),
    [("max_page_count = 1", "the disk that holds {} is full"), ("query_only = 1", "nothing may be written in {}")],
)
def test_a_database_that_cannot_be_written_names_the_folder(home: Path, pragma: str, words: str) -> None:
    with Client() as client:
        client.models()

        def fill() -> None:
            with client.database.write() as connection:
                connection.exec_driver_sql(f"PRAGMA {pragma}")
                connection.exec_driver_sql("CREATE TABLE filler AS SELECT zeroblob(100000) AS bytes")

        with pytest.raises(DatabaseUnavailable) as caught:
            fill()
    assert words.format(home) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_ctrl_c_while_waiting_says_how_to_go_on(
    home: Path, photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with Client() as client:
        job = client.submit(str(photos(1)))
        monkeypatch.setattr(polling.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt, match=f"job {job.id} continues.*cars cancel {job.id}") as caught:
            job.wait()
    assert caught.value.__suppress_context__


def test_a_private_file_that_is_there_keeps_this_process_its_locks(tmp_path: Path) -> None:
    """SQLite's locks are of this kind: without them another process removes the log that this one reads."""
    file = tmp_path / "cars.db"
    private_file(file)
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open("r+") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        private_file(file)
        script = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        taken = subprocess.run([sys.executable, "-P", "-c", script, str(file)], capture_output=True, check=False)
    assert b"BlockingIOError" in taken.stderr
