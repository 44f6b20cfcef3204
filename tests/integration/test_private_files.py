"""What the product writes in CARS_HOME is nobody else's."""

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.disk import private_file


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_whatever_the_umask(
    tmp_path: Path, photos: Callable[..., Path], run_cars: Callable[..., Any], umask: int
) -> None:
    home = tmp_path / "home"
    home.mkdir()  # it was there before
    picture = tmp_path / "one.png"
    Image.new("RGB", (32, 32)).save(picture)
    folder = photos(2)
    before = os.umask(umask)
    try:
        for command in (
            ("classify", str(folder), "-o", str(tmp_path / "rows.csv")),
            ("label", str(picture), "BMW M3 Coupe 2012"),
            ("model", "export", "production", "-o", str(tmp_path / "exported")),
            ("doctor",),
        ):
            done = run_cars(*command, env={"CARS_HOME": str(home)})
            assert done.returncode == 0, done.stderr
    finally:
        os.umask(before)
    written = list(home.rglob("*"))
    assert {"cars.db", "worker.log", "models", ".corrections"} <= {path.name for path in written}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in written}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    for file in (
        tmp_path / "rows.csv",
        tmp_path / "exported" / "card.json",
    ):  # where the user wants it, as the user does
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


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
