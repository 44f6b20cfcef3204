"""Which packages a worker needs on this machine; none of them is imported here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from jobs.errors import WorkerFailed
from jobs.settings import load

__all__ = ["require_model_packages", "require_training_packages", "require_web_packages"]


def require_model_packages(find: Callable[[str], object] = find_spec) -> None:
    """Raise WorkerFailed unless this Python can decode images and run a model; imports neither."""
    missing = [] if find("PIL") else ["Pillow"]
    if ":" not in load().engine and not any(map(find, ("onnxruntime", "torch"))):
        missing.append("onnxruntime")
    if missing:
        raise WorkerFailed(
            f"this installation is only the client: {' and '.join(missing)} missing, so no worker can run here; "
            "pip install 'car-classifier[cpu]' (or [gpu]), or start `cars worker` where it is installed"
        )


def require_training_packages(find: Callable[[str], object] = find_spec) -> None:
    """Raise WorkerFailed unless this Python can train and publish; imports nothing."""
    needed = ("fastai", "torch", "torchvision", "onnx", "onnxruntime", "PIL", "matplotlib", "scipy", "imagehash")
    if missing := [name for name in needed if not find(name)]:
        raise WorkerFailed(
            f"this installation cannot train: {', '.join(missing)} missing; pip install 'car-classifier[train]' "
            "(./cars installs the extras that CARS_EXTRAS names: CARS_EXTRAS=cpu,train), or start "
            "`cars worker --queues train` where it is installed"
        )


def require_web_packages(find: Callable[[str], object] = find_spec) -> None:
    """Raise WorkerFailed unless this Python can serve the web console; imports nothing."""
    if missing := [name for name in ("starlette", "uvicorn", "python_multipart") if not find(name)]:
        raise WorkerFailed(
            f"this installation has no web console: {', '.join(missing)} missing; pip install 'car-classifier[web]' "
            "(./cars installs the extras that CARS_EXTRAS names: CARS_EXTRAS=cpu,tables,web)"
        )
