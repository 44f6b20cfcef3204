"""Settings that a process hands to those that it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.settings import Settings, environment


@pytest.mark.parametrize("roots", [(), ("/srv/photos", "s3://bucket"), ("/srv/a:b", "/srv/c,d"), ("/srv/a:b",)])
def test_a_child_process_has_the_same(roots: tuple[str, ...], home: Path) -> None:
    settings = Settings(source_roots=roots, batch_size=9, database_url=f"sqlite:///{home}/x.db", home=home)
    code = "from jobs.settings import load; s = load(); print([s.roots, s.batch_size, str(s.database), str(s.home)])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(settings), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == repr([roots, 9, str(settings.database), str(home)])
