"""Checkpoints of a run: safetensors for what is large, JSON for the rest, each epoch replacing the one before.

The JSON file names its tensors' file and is replaced last, so that a kill at any moment leaves a whole checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.training.errors import TrainingFailed
from model.training.progress import RunProgress

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

_INDEX = "checkpoint.json"
_EMA = "average."  # the prefix of its tensors, as in every release


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run after `epoch` epochs of phase `phase`; `rates` are the `lr_max` taken so far, one per phase.

    `ema`: the moving average of the weights, empty where there is none.
    """

    phase: int
    epoch: int
    rates: tuple[float, ...]
    history: tuple[RunProgress, ...]
    network: Mapping[str, torch.Tensor]
    ema: Mapping[str, torch.Tensor] = field(default_factory=dict)
    optimizer: Any = None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint by this one."""
    tensors = {f"network.{name}": tensor for name, tensor in checkpoint.network.items()}
    tensors |= {f"{_EMA}{name}": tensor for name, tensor in checkpoint.ema.items()}
    tree = _detach(checkpoint.optimizer, tensors)
    file = f"checkpoint-{checkpoint.phase}-{checkpoint.epoch}.safetensors"
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(plain, folder / f"{file}.new")
    except SafetensorError as exc:
        raise OSError(f"the checkpoint cannot be written to {folder}: {exc}") from exc
    (folder / f"{file}.new").replace(folder / file)
    index = {
        "format": 1,
        "tensors": file,
        "phase": checkpoint.phase,
        "epoch": checkpoint.epoch,
        "rates": list(checkpoint.rates),
        "history": [progress.to_json() for progress in checkpoint.history],
        "optimizer": tree,
    }
    (folder / f"{_INDEX}.new").write_text(json.dumps(index))
    (folder / f"{_INDEX}.new").replace(folder / _INDEX)
    for old in folder.glob("checkpoint-*.safetensors*"):
        if old.name != file:
            old.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the folder's checkpoint, on the CPU, or None if there is none. Raises TrainingFailed if it is damaged."""
    if not (folder / _INDEX).exists():
        return None
    try:
        index = json.loads((folder / _INDEX).read_text())
        tensors = load_file(folder / index["tensors"])
        return Checkpoint(
            phase=index["phase"] if "phase" in index else index["stage"],  # "stage": until release 0.2.0
            epoch=index["epoch"],
            rates=tuple(index["rates"]),
            history=tuple(map(RunProgress.from_json, index["history"])),
            network=_under("network.", tensors),
            ema=_under(_EMA, tensors),
            optimizer=_attach(index["optimizer"], tensors),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as exc:
        raise TrainingFailed(f"the checkpoint in {folder} is damaged ({exc}); delete the folder to start over") from exc


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _detach(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return an optimizer's state as JSON; its tensors go to `tensors` and leave their names behind.

    Dicts become lists of pairs, because optimizers number parameters by integer keys, which JSON would turn to text.
    """
    if isinstance(tree, torch.Tensor):
        name = f"optimizer.{len(tensors)}"
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {"pairs": [[key, _detach(value, tensors)] for key, value in tree.items()]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if hasattr(tree, "item"):  # a numpy number, which schedules leave behind
        return tree.item()
    return {"list": [_detach(value, tensors) for value in tree]}


def _attach(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "pairs" in tree:
        return {key: _attach(value, tensors) for key, value in tree["pairs"]}
    return [_attach(value, tensors) for value in tree["list"]]
