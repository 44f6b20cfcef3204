"""Which devices a worker has, without loading torch or touching CUDA in its parent process."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from jobs.settings import Settings

__all__ = ["count", "describe", "of_child", "uses_cuda"]


@cache
def _gpus() -> int:
    """Return how many GPUs the driver lists; 0 where there is no driver, or no torch built for CUDA to use it."""
    if not _torch_has_cuda():
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _torch_has_cuda() -> bool:
    """Return what torch's own version file says: importing torch would load CUDA into the parent."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    return version.is_file() and "cuda: Optional[str] = None" not in version.read_text()


def count(settings: Settings) -> int:
    """Return how many engine processes this machine should have: one per device."""
    return max(1, _gpus()) if settings.device in {"auto", "cuda"} and settings.engine in {"auto", "torch"} else 1


def of_child(settings: Settings, index: int) -> str:
    """Return the device of a worker's child by its place in the pool, counted from 0."""
    if settings.device == "auto" and settings.engine in {"auto", "torch"}:
        return f"cuda:{index % _gpus()}" if _gpus() else "cpu"
    if settings.device == "cuda" and _gpus():
        return f"cuda:{index % _gpus()}"
    return settings.device


def describe(settings: Settings) -> str:
    """Return what the heartbeat row and `cars doctor` say."""
    first = of_child(settings, 0)
    return f"cuda ({_gpus()})" if first == "cuda:0" and count(settings) > 1 else first


def uses_cuda(settings: Settings) -> bool:
    """Return whether children have CUDA, which reserves more addresses than there is memory."""
    return of_child(settings, 0).startswith("cuda")
