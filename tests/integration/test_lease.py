"""Leases: renewed while the work continues, noticed when lost, and the end of a process that hangs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from jobs.errors import DatabaseUnavailable
from tests.support.processes import environment, wait_until
from workers.lease import Lease, LeaseLost


def test_renewed_until_the_work_ends() -> None:
    renewals = threading.Semaphore(0)

    def renew() -> bool:
        renewals.release()
        return True

    with Lease(renew, seconds=0.03, stall_seconds=60) as lease:
        for _ in range(5):
            assert renewals.acquire(timeout=30)
        lease.check()
    while renewals.acquire(blocking=False):
        pass
    assert not renewals.acquire(timeout=0.2)


def test_a_lost_lease_raises() -> None:
    asked = threading.Event()

    def renew() -> bool:
        asked.set()
        return False

    with Lease(renew, seconds=0.03, stall_seconds=60) as lease:
        lease.check()
        assert asked.wait(30)

        def lost() -> bool:
            try:
                lease.check()
            except LeaseLost:
                return True
            return False

        wait_until(lost)


@pytest.mark.parametrize("error", [DatabaseUnavailable("restarting"), RuntimeError("no connection is free")])
def test_a_renewal_that_fails_is_tried_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    outcomes = iter([error, error])
    renewed = threading.Event()

    def renew() -> bool:
        for outcome in outcomes:
            raise outcome
        renewed.set()
        return True

    with Lease(renew, seconds=0.03, stall_seconds=60) as lease:
        assert renewed.wait(30)
        lease.check()
    assert caplog.text.count("the lease could not be renewed") == 2


STALLED = """
import threading
from workers.lease import Lease
with Lease(lambda: True, seconds=0.05, stall_seconds=0.3):
    threading.Event().wait(60)
"""
PROGRESSING = """
import sys, threading, time
from workers.lease import Lease
with Lease(lambda: True, seconds=0.05, stall_seconds=float(sys.argv[1])) as lease:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        lease.progress()
        threading.Event().wait(0.01)
print("done")
"""


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=50)


def test_work_that_stalls_ends_its_process() -> None:
    done = run(STALLED)
    assert done.returncode == -signal.SIGKILL
    assert "no progress for 0.3 s" in done.stderr


@pytest.mark.parametrize("stall", ["0.9", "inf"])
def test_work_that_continues_does_not(stall: str) -> None:
    done = run(PROGRESSING, stall)
    assert (done.returncode, done.stdout) == (0, "done\n")
