"""What the pipeline asks of an engine, and how one is chosen for this machine."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from model.cards import CardDraft
from model.errors import DeviceUnavailable, ModelError

__all__ = ["Engine", "choose", "open_engine"]


@runtime_checkable
class Engine(Protocol):
    """A loaded network. An engine of one's own is any class with these members, named `module:Class`.

    It may also have `preferred_batch`: how many images it is given at once where that many are ready (16 otherwise).
    """

    input_size: int
    classes: Sequence[str]

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return for RGB images (N, S, S, 3), N at least 1, S = `input_size` → logits (N, C), C = len(`classes`)."""

    def unload(self) -> None:
        """Free the memory; the engine is not used afterwards. May be called twice."""


def open_engine(spec: str, device: str, folder: Path, card: CardDraft) -> Engine:
    """Return the engine `spec` on `device`, loaded from the verified artifact in `folder`.

    `spec`: `onnx` (CPU), `torch` (CUDA or CPU), `auto` (`torch` where CUDA works, else `onnx`), or `module:Class`,
    which is called as Class(card=card, folder=folder, device=device). `device`: `auto`, `cpu`, `cuda` or `cuda:1`.
    Raises DeviceUnavailable where the engine or device is not on this machine, and the errors of `cards.verify`.
    """
    module, name = choose(spec, device, card)
    try:
        factory = cast("Callable[..., Engine]", getattr(import_module(module), name))
    except ImportError as exc:
        raise DeviceUnavailable(
            f"engine {spec!r} cannot be used: {exc}; install the extra `cpu` (onnx) or `gpu` (torch), or set "
            "CARS_ENGINE=auto; an engine of your own must be importable by its module's name"
        ) from exc
    except AttributeError as exc:
        raise DeviceUnavailable(f"engine {spec!r} cannot be used: module {module} has no {name}") from exc
    return _checked(factory(card=card, folder=folder, device=device), spec, card)


def choose(spec: str, device: str, card: CardDraft) -> tuple[str, str]:
    """Return the module and class for `spec`; loads neither. Raises DeviceUnavailable for what cannot work together."""
    builtin = {
        "onnx": ("model.engines.onnx", "OnnxEngine"),
        "torch": ("model.engines.torch", "TorchEngine"),
    }
    if ":" in spec:
        module, _, name = spec.partition(":")
        return module, name
    if device not in ("auto", "cpu", "cuda") and not (device.startswith("cuda:") and device[5:].isdecimal()):
        raise DeviceUnavailable(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N (CARS_DEVICE)")
    if spec == "auto":
        spec = _automatic(device, card)
    if spec not in builtin:
        raise DeviceUnavailable(f"unknown engine {spec!r}: use auto, onnx, torch or module:Class (CARS_ENGINE)")
    if spec == "onnx" and device.startswith("cuda"):
        raise DeviceUnavailable(
            f"the onnx engine runs on the CPU, not on {device}: set CARS_ENGINE=torch or CARS_DEVICE=cpu"
        )
    if spec not in card.engines:
        offered = ", ".join(card.engines)
        raise DeviceUnavailable(f"version {card.name} has nothing for the {spec} engine; it has: {offered}")
    return builtin[spec]


def _automatic(device: str, card: CardDraft) -> str:
    if device.startswith("cuda") or (device == "auto" and "torch" in card.engines and _cuda_works()):
        return "torch"
    has_onnx = "onnx" in card.engines and find_spec("onnxruntime") is not None
    return "onnx" if has_onnx or find_spec("torch") is None else "torch"


def _cuda_works() -> bool:
    """Return whether torch can use a GPU. Importing torch takes seconds, so the driver is looked for first."""
    if find_spec("torch") is None:
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def _checked(engine: Engine, spec: str, card: CardDraft) -> Engine:
    missing = [name for name in ("input_size", "classes", "logits", "unload") if not hasattr(engine, name)]
    if missing:
        raise ModelError(f"engine {spec!r} lacks {', '.join(missing)}; see model.engines.Engine for what an engine has")
    if len(engine.classes) != len(card.classes):
        raise ModelError(
            f"engine {spec!r} has {len(engine.classes)} classes, version {card.name} has {len(card.classes)}"
        )
    return engine
