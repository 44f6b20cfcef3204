"""A worker process for the length of one command: `cars classify` on a machine where none is alive."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from jobs.disk import private_file, private_folder, trouble
from jobs.errors import WorkerFailed
from jobs.requirements import require_model_packages
from jobs.settings import load

__all__ = ["WorkerProcess"]

_LOG_LIMIT = 5 * 2**20
_LAST_LINES = 12


class WorkerProcess:
    """`python -P -m workers worker` in a process group of its own, writing to `CARS_HOME/worker.log`."""

    def __init__(self, *options: str, require: Callable[[], None] = require_model_packages) -> None:
        self._options = options
        self._require = require
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start it and return at once. Raises WorkerFailed."""
        self._require()
        home = load().home
        try:
            private_folder(home)
            self._log = home / "worker.log"
            private_file(self._log)
            if self._log.exists() and self._log.stat().st_size > _LOG_LIMIT:
                self._log.write_bytes(b"")
            with self._log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "workers", "worker", *self._options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C in the terminal must reach this command only: it decides how its worker ends.
                    start_new_session=True,
                )
        except OSError as exc:
            raise WorkerFailed(f"a local worker could not be started: {trouble(exc, home)} (CARS_HOME)") from exc

    def running(self) -> bool:
        """Return whether it runs. Raises WorkerFailed when it has ended by itself."""
        if self._process is None:
            return False
        if (code := self._process.poll()) is None:
            return True
        ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise WorkerFailed(f"the local worker {ending} before the work was done; {self._end_of_log()}")

    def dismiss(self) -> None:
        """Ask it to end and return at once."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, *, patience: float) -> None:
        """Ask it to end, and kill it after `patience` seconds."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        try:
            process.terminate()
            process.wait(patience)
        except subprocess.TimeoutExpired:
            pass  # killing loses nothing: the batch in work comes back when its lease ends
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _end_of_log(self) -> str:
        if self._log is None:
            return "it has no log"
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
            if lines:
                return f"the end of its log (all of it is in {self._log}):\n" + "\n".join(lines[-_LAST_LINES:])
        return f"it wrote nothing to {self._log}"
