"""onnxruntime on the CPU: the default where there is no GPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx  # noqa: F401  (without it a graph cannot be inspected, and an uninspected one is not loaded)
import onnxruntime
from numpy.typing import NDArray

from model.cards import CardDraft, read_verified
from model.cores import available_cores
from model.errors import ArtifactCorrupt

__all__ = ["OnnxEngine"]


class OnnxEngine:
    """Runs the version's graph: `images` uint8 (N, S, S, 3) → `logits` float32 (N, C); it normalizes by itself."""

    preferred_batch = 16

    def __init__(self, *, card: CardDraft, folder: Path, device: str = "cpu", threads: int | None = None) -> None:
        """Load from verified bytes; `threads` within an operator: one per physical core unless given; `device`: CPU.

        Raises ArtifactCorrupt or ArtifactUnsafe.
        """
        del device
        self.input_size = card.image_size
        self.classes: Sequence[str] = card.classes
        file = card.engines["onnx"].file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        # Threads that spin between operators take the cores from those that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                read_verified(folder, card, file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:
            if type(exc).__module__.startswith("onnxruntime"):
                raise ArtifactCorrupt(
                    f"onnxruntime cannot load {folder / file}: {exc}; import the version again"
                ) from exc
            raise
        _check(session, folder / file, card)
        self._session: onnxruntime.InferenceSession | None = session

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.logits`. Larger inputs are run in parts, so that memory does not grow with N."""
        if self._session is None:
            raise RuntimeError("the engine was unloaded; open it again")
        step = self.preferred_batch
        parts = [
            self._session.run(["logits"], {"images": np.ascontiguousarray(images[start : start + step])})[0]
            for start in range(0, len(images), step)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def unload(self) -> None:
        """See `Engine.unload`."""
        self._session = None


def _check(session: onnxruntime.InferenceSession, path: Path, card: CardDraft) -> None:
    size = card.image_size
    inputs = [(entry.name, entry.type, *entry.shape[1:]) for entry in session.get_inputs()]
    outputs = [(entry.name, entry.type, entry.shape[-1]) for entry in session.get_outputs()]
    expected = ([("images", "tensor(uint8)", size, size, 3)], [("logits", "tensor(float)", len(card.classes))])
    if (inputs, outputs) != expected:
        raise ArtifactCorrupt(
            f"{path} does not fit its card: it takes {inputs} and gives {outputs}, not {expected[0]} and {expected[1]}"
        )
