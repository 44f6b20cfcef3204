"""How much memory a child may use, from settings, control groups and the machine; and what happens beyond."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.errors import SettingsInvalid
from jobs.settings import load
from tests.support.processes import environment
from workers.supervision import memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GiB without control groups."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "machine_memory", lambda: 64 * GIB)
    return tmp_path


def group(machine: Path, line: str, file: str, limit: str) -> None:
    with (machine / "proc" / "self" / "cgroup").open("a") as groups:
        groups.write(f"{line}\n")
    path = machine / "cgroup" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{limit}\n")


def test_by_the_machine(machine: Path, home: Path) -> None:
    assert memory.child_limit(load(), children=2) == int(64 * GIB * 0.9 / 2)
    assert memory.child_limit(load(), children=64) == memory.FLOOR


def test_by_the_control_group(machine: Path, home: Path) -> None:
    group(machine, "0::/pod/worker", "pod/worker/memory.max", "max")
    assert memory.child_limit(load(), children=1) == int(64 * GIB * 0.9)
    group(machine, "0::/pod/worker", "pod/memory.max", str(10 * GIB))
    assert memory.child_limit(load(), children=1) == int(10 * GIB * 0.9)
    group(machine, "4:cpu,memory:/old", "memory/old/memory.limit_in_bytes", str(5 * GIB))
    assert memory.child_limit(load(), children=1) == int(5 * GIB * 0.9)


def test_by_the_setting(machine: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARS_CHILD_MEMORY", "3GiB")
    assert memory.child_limit(load(), children=4) == 3 * GIB
    monkeypatch.setenv("CARS_CHILD_MEMORY", "1MB")
    with pytest.raises(SettingsInvalid, match="CARS_CHILD_MEMORY"):
        load()


BEYOND = """
import threading
from workers.supervision.memory import limited

def grow():
    held = []
    try:
        while True:
            held.append(bytearray(1 << 20))
    except MemoryError:
        print("refused at", len(held))

with limited(300 << 20):
    thread = threading.Thread(target=grow)
    thread.start()
    thread.join()
bytearray(400 << 20)
print("free again")
"""


def test_beyond_the_limit_an_allocation_fails() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", BEYOND], env=environment(), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    refused, free = done.stdout.splitlines()
    assert 50 < int(refused.split()[-1]) <= 300
    assert free == "free again"


def test_what_a_process_holds() -> None:
    import os

    assert memory.resident(os.getpid()) > 1 << 20
    assert memory.resident(2**30) == 0
