"""torch on CUDA in half precision, or on the CPU in float32."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.cards import CardDraft
from model.errors import DeviceUnavailable
from model.network import load_weights

__all__ = ["TorchEngine"]


class TorchEngine:
    """Runs the version's weights, channels-last; float16 on CUDA, float32 on the CPU. Normalizes on the device."""

    def __init__(self, *, card: CardDraft, folder: Path, device: str = "auto", compile: bool = False) -> None:
        """Load from verified bytes. With `compile` the network is compiled on first use, which takes a minute and pays
        in long runs. Raises DeviceUnavailable, ArtifactCorrupt or ArtifactUnsafe.
        """
        self.input_size = card.image_size
        self.classes: Sequence[str] = card.classes
        self._device = _find(device)
        self._kind = torch.float16 if self._device.type == "cuda" else torch.float32
        self.preferred_batch = 64 if self._device.type == "cuda" else 16
        self._fixed = compile
        network = load_weights(folder, card).to(self._device, self._kind).to(memory_format=torch.channels_last)
        self._network: Callable[[torch.Tensor], torch.Tensor] | None = network
        if compile:
            self._network = torch.compile(network, dynamic=False)
        mean, std = (torch.tensor(v, device=self._device) for v in (card.preprocessing.mean, card.preprocessing.std))
        self._mean, self._scale = (mean * 255).view(1, 3, 1, 1), (1 / (std * 255)).view(1, 3, 1, 1)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.logits`. Larger inputs are run in parts; all are sent before the first result is waited for."""
        if self._network is None:
            raise RuntimeError("the engine was unloaded; open it again")
        with torch.inference_mode():
            starts = range(0, len(images), self.preferred_batch)
            parts = [self._run(self._network, images[start : start + self.preferred_batch]) for start in starts]
            result: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return result

    def unload(self) -> None:
        """See `Engine.unload`."""
        self._network = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, network: Callable[[torch.Tensor], torch.Tensor], images: NDArray[np.uint8]) -> torch.Tensor:
        count = len(images)
        if self._fixed and count < self.preferred_batch:
            # A compiled network is compiled anew for every other shape.
            images = np.concatenate([images, np.zeros((self.preferred_batch - count, *images.shape[1:]), np.uint8)])
        batch = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        if self._device.type == "cuda":
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        # NHWC bytes seen as NCHW are channels-last already: no copy.
        normal = (batch.permute(0, 3, 1, 2).float() - self._mean) * self._scale
        return network(normal.to(self._kind))[:count].float()


def _find(device: str) -> torch.device:
    works = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if works else "cpu")
    found = torch.device(device)
    if found.type == "cuda" and not (works and (found.index or 0) < torch.cuda.device_count()):
        raise DeviceUnavailable(
            f"{device} is not available: torch {torch.__version__} sees {torch.cuda.device_count() if works else 0} "
            "CUDA devices; set CARS_DEVICE=cpu, or install the CUDA build of torch and a driver"
        )
    return found
