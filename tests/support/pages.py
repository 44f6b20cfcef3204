"""Code blocks of the README and the docs, and running them as a reader would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.processes import environment

__all__ = ["blocks", "cars_on_path", "run"]


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page that are in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run(script: str, *, folder: Path, env: dict[str, str], path: str | None = None, seconds: float = 240) -> str:
    """Run a shell block in `folder`, kill what it left in the background, and return its output.

    `path`: the shell's PATH, by default one with `cars` on it.
    """
    path = path or f"{cars_on_path(folder)}:{os.environ['PATH']}"
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment({**env, "PATH": path}),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, f"{script}\n{(folder / 'stderr').read_text()}"
    return (folder / "stdout").read_text()


def cars_on_path(folder: Path) -> Path:
    """Make a folder with the console script `cars`, for an environment into which the project is not installed."""
    command = folder / "bin" / "cars"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m jobs.cli "$@"\n')
    command.chmod(0o755)
    return command.parent
