"""How many processor cores this process may use."""

import os
from functools import cache
from pathlib import Path

__all__ = ["available_cores"]

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/{}"
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@cache
def available_cores(*, hyperthreads: bool = False) -> int:
    """Return the number of cores that this process may use, at least 1: its affinity within its container's quota.

    Matrix kernels gain nothing from a second thread on a core, so `hyperthreads` count once unless asked for; decoding
    does gain. Threads beyond the quota only cost.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = len(allowed) if hyperthreads else len({_core_of(cpu) for cpu in allowed})
    return max(1, min(cores, _quota()))


def _core_of(cpu: int) -> tuple[str, str]:
    try:
        package, core = (Path(_TOPOLOGY.format(cpu, part)).read_text() for part in ("physical_package_id", "core_id"))
    except OSError:
        return "", str(cpu)
    return package, core


def _quota() -> int:
    """Return the whole cores of the control group (version 2) of this container, rounded up; no limit reads `max`."""
    try:
        quota, period = _QUOTA.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return os.cpu_count() or 1
