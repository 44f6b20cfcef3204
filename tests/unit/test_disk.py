"""A disk in trouble, and Ctrl-C: what the person is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import Client
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


def test_ctrl_c_while_waiting_says_how_to_continue(
    home: Path, photos: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with Client() as client:
        job = client.submit(str(photos(1)))
        monkeypatch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt, match=f"job {job.id} continues.*cars cancel {job.id}") as caught:
            job.wait()
    assert caught.value.__suppress_context__
