"""Engines that fail in the ways that engines do. ENGINE_FLAG names a file; while it exists, some of them fail.

A picture with a white left and a black right edge is the one that they fail on.
"""

import ctypes
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.engines import ScriptedEngine

__all__ = ["DiesLoading", "Eats", "Forgetful", "HoldsLock", "Raises", "flag", "odd_picture"]


def odd_picture(file: Path) -> None:
    """Write the picture that these engines fail on."""
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 8, 16))
    image.save(file)


def _has_odd(images: np.ndarray) -> bool:
    return bool(((images[:, 8, 0, 0] > 200) & (images[:, 8, -1, 0] < 50)).any())


def flag() -> Path:
    return Path(os.environ["ENGINE_FLAG"])


class Raises(ScriptedEngine):
    """ENGINE_RAISES: the exception that the odd picture raises, by name."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        if _has_odd(images):
            raise {"RuntimeError": RuntimeError, "MemoryError": MemoryError, "OSError": OSError}[
                os.environ.get("ENGINE_RAISES", "RuntimeError")
            ]("the odd picture")
        return super().logits(images)


class Forgetful(ScriptedEngine):
    """Raises an exception in every process while the flag's file exists."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        if flag().exists():
            raise RuntimeError("CUDA error: unspecified launch failure")
        return super().logits(images)


class DiesLoading(ScriptedEngine):
    """Kills its process while it is loaded, as long as the flag's file exists."""

    def __init__(self, *, card: Any, folder: Path, device: str) -> None:
        super().__init__(card=card, folder=folder, device=device)
        if flag().exists():
            os.kill(os.getpid(), signal.SIGKILL)


class HoldsLock(ScriptedEngine):
    """Hangs on the odd picture, in C and while it keeps the interpreter's lock."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        if _has_odd(images):
            ctypes.PyDLL(None).sleep(600)
        return super().logits(images)


class Eats(ScriptedEngine):
    """Allocates without end on the odd picture."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        blocks = []
        while _has_odd(images):
            blocks.append(bytearray(16 << 20))
        return super().logits(images)
