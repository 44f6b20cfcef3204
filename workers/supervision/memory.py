"""How much memory a child may use, and how much it does. Linux only; elsewhere nothing is limited."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jobs.settings import Settings

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

__all__ = ["child_limit", "limited", "machine_memory", "resident"]

FLOOR: Final = 2 << 30  # an engine and the decoders beside it need as much at times
PARENT_FRACTION: Final = 0.1
UNLIMITED: Final = 1 << 60
CGROUPS: Final = Path("/sys/fs/cgroup")
PROC: Final = Path("/proc")


def child_limit(settings: Settings, *, children: int) -> int:
    """Return bytes a child may use: CARS_CHILD_MEMORY, else its part of what the control group or the machine has."""
    if settings.child_memory is not None:
        return int(settings.child_memory)
    whole = min(_of_cgroup(), machine_memory())
    return max(FLOOR, int(whole * (1 - PARENT_FRACTION) / max(1, children)))


def machine_memory() -> int:
    """Return the bytes of RAM that this machine has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return UNLIMITED


def _of_cgroup() -> int:
    """Return the least limit of this process's control group and those above it; of both versions."""
    limits = [UNLIMITED]
    for line in _lines(PROC / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                limits += [int(text) for text in _lines(folder / name) if text.isdecimal()]
    return min(limits)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


@contextmanager
def limited(limit: int | None) -> Iterator[None]:
    """Within, an allocation that would take this process beyond `limit` bytes fails with MemoryError.

    What counts is private memory that can be written to (RLIMIT_DATA), not reserved addresses nor mapped files.
    """
    if limit is None or resource is None:
        yield
        return
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def resident(pid: int) -> int:
    """Return bytes of a process's own memory that are in RAM; 0 where that is unknown."""
    for line in _lines(PROC / str(pid) / "status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
