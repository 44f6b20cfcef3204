"""What a worker's parent sees of its children: one that hangs, one that eats memory, a broken engine, their pace."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from jobs.settings import Settings, environment
from workers.self_check import COMMAND, ending
from workers.supervision import memory
from workers.supervision.shared_memory import Shared, Slot

__all__ = ["ChildMonitor"]

logger = logging.getLogger(__name__)
RATE_SECONDS: Final = 30.0
LEAST_SILENCE: Final = 5.0  # importing a large library may keep the interpreter's lock for seconds
STEP: Final = 2.0  # what a tick counts for at most: this process may have been stopped itself
RECHECK_SECONDS: Final = 5.0
LONGEST_RECHECK: Final = 300.0


class ChildMonitor:
    """Called at each tick of the parent's recovery thread. `resident_limit`: bytes of RAM a child may hold, where its
    own limit cannot work: CUDA reserves addresses without end.
    """

    def __init__(
        self,
        shared: Shared,
        settings: Settings,
        *,
        resident_limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared, self._settings, self._resident_limit, self._clock = shared, settings, resident_limit, clock
        self._silence = max(LEAST_SILENCE, settings.lease_seconds)
        self._pulses: dict[Slot, tuple[int, int, float]] = {}
        self._looked_at = clock()
        self._counts: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._recheck = _Recheck(shared, settings, clock=clock)

    @property
    def broken(self) -> str | None:
        """Why the worker takes no batches."""
        return self._shared.broken

    def tick(self) -> None:
        """Look at each child once."""
        now = self._clock()
        step = min(STEP, now - self._looked_at)
        self._looked_at = now
        for slot in self._shared.slots():
            if not is_child(slot.pid):
                self._ended(slot)
            elif slot.working:
                self._look_at(slot, step)
            else:
                self._pulses.pop(slot, None)
        self._recheck.tick()

    def row(self) -> Mapping[str, str | float | None]:
        """Return what the heartbeat row says beside who the worker is."""
        now, images = self._clock(), self._shared.images
        self._counts.append((now, images))
        while len(self._counts) > 2 and now - self._counts[1][0] > RATE_SECONDS:
            self._counts.popleft()
        since, before = self._counts[0]
        seconds = now - since
        rate = max(0, images - before) / seconds if seconds > 0 else 0.0
        return {"broken": self._shared.broken, "images_per_second": round(rate, 2) if rate else None}

    def close(self) -> None:
        """End what is still being checked."""
        self._recheck.close()

    def _ended(self, slot: Slot) -> None:
        """A child has ended. If it was loading, the engine is suspect until a check has passed."""
        self._pulses.pop(slot, None)
        if slot.loading:
            self._recheck.suspect("the engine's process crashed while it loaded a model version")
        slot.clear()

    def _look_at(self, slot: Slot, step: float) -> None:
        pid, pulse = slot.pid, slot.pulse
        before_pid, before, silent = self._pulses.get(slot, (pid, pulse, 0.0))
        silent = silent + step if (pid, pulse) == (before_pid, before) else 0.0
        self._pulses[slot] = (pid, pulse, silent)
        if silent > self._silence:
            self._kill(pid, f"none of its threads has run for {silent:.0f} s")
        elif self._resident_limit is not None and (used := memory.resident(pid)) > self._resident_limit:
            self._kill(
                pid, f"it holds {used / 2**30:.1f} GiB of {self._resident_limit / 2**30:.1f} (CARS_CHILD_MEMORY)"
            )

    def _kill(self, pid: int, why: str) -> None:
        """End a child that is in a batch: there it holds nothing that others wait for, and its batch comes back."""
        logger.error("the engine process %d is ended: %s", pid, why)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_child(pid: int) -> bool:
    """Return whether a process is a child of this one that still runs."""
    if not hasattr(os, "waitid"):  # macOS, up to Python 3.12
        return _runs(pid)
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


class _Recheck:
    """A broken worker is checked again in a process of its own, less and less often, until that passes."""

    def __init__(self, shared: Shared, settings: Settings, *, clock: Callable[[], float]) -> None:
        self._shared, self._settings, self._clock = shared, settings, clock
        self._process: subprocess.Popen[str] | None = None
        self._pause = RECHECK_SECONDS
        self._due: float | None = None
        self._deadline = 0.0

    def suspect(self, reason: str) -> None:
        """Take no batches until a check has passed, which begins at once."""
        if self._shared.broken is None:
            logger.error("this worker is broken until a check passes: %s", reason)
            self._shared.broken = reason
            self._due = self._clock()

    def tick(self) -> None:
        """Begin a check when it is due, and see how it ended."""
        if self._shared.broken is None:
            return
        if self._due is None:
            self._due = self._clock() + self._pause
        if self._process is None and self._clock() >= self._due:
            self._process = _start(self._settings)
            self._deadline = self._clock() + self._settings.stall_seconds
        if self._process is not None and (reason := self._outcome(self._process)) is not None:
            self._process = None
            self._conclude(reason)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _outcome(self, process: subprocess.Popen[str]) -> str | None:
        """Return why the check failed, empty where it passed; None while it runs."""
        if process.poll() is None:
            if self._clock() < self._deadline:
                return None
            process.kill()
        _, errors = process.communicate()
        if process.returncode == 0:
            return ""
        last = (errors.strip().splitlines() or [f"the check ended with {ending(process.returncode)}"])[-1]
        return last.removeprefix("error: ")

    def _conclude(self, reason: str) -> None:
        if reason:
            self._shared.broken = reason
            self._pause = min(LONGEST_RECHECK, 2 * self._pause)
            self._due = self._clock() + self._pause
            logger.error("this worker is still broken; checked again in %.0f s: %s", self._pause, reason)
            return
        self._shared.broken = None
        self._pause, self._due = RECHECK_SECONDS, None
        logger.warning("the check passes: this worker takes batches again")


def _start(settings: Settings) -> subprocess.Popen[str]:
    return subprocess.Popen(
        COMMAND, env=environment(settings), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
