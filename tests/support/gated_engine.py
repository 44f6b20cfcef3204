"""An engine for tests of the command line: every image is the card's first class; it waits while GATE names a file,
but not when it is given the start-up image.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from workers.self_check import start_up_image


class GatedEngine:
    def __init__(self, *, card: Any, folder: Path, device: str) -> None:
        self.input_size = 16
        self.classes = card.classes

    def logits(self, images: np.ndarray) -> np.ndarray:
        gate = os.environ.get("GATE") if not np.array_equal(images, start_up_image(self.input_size)) else None
        while gate and Path(gate).exists():
            time.sleep(0.02)
        row = np.zeros(len(self.classes), np.float32)
        row[0] = 20
        return np.tile(row, (len(images), 1))

    def unload(self) -> None:
        pass
