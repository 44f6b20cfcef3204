"""The weights a run starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from torch import nn

from model import card as cards
from model.errors import ModelError
from model.inspection import inspect_safetensors, refuse_pickle
from model.network import build, load_weights
from model.training.errors import TrainingFailed

State = Mapping[str, torch.Tensor]

_IMAGENET = "https://download.pytorch.org/models/resnet34-b627a593.pth"
_IMAGENET_DIGEST = "b627a593"  # the start of the file's SHA-256, which torchvision puts into its name


def starting_network(init: str | Path, classes: Sequence[str], *, pretrained: Path | None, seed: int) -> nn.Module:
    """A ResNet34 over ``classes``.

    ``init``: `scratch` (random by ``seed``), `imagenet` (torchvision's weights: the file ``pretrained`` if given, else
    fetched), a published version's folder, or a .safetensors file with torchvision's names. The head's rows go to the
    classes of the same name; a file does not name its classes, so its head is kept if it has as many.
    Raises TrainingFailed, or the errors of `card.verify`.
    """
    torch.manual_seed(seed)
    network = build(len(classes))
    if str(init) == "scratch":
        return network
    if str(init) == "imagenet":
        _fill(network, _imagenet(pretrained), head=None)
    elif Path(init).is_dir():
        card = cards.verify(Path(init))
        position = {name: index for index, name in enumerate(card.classes)}
        _fill(network, load_weights(Path(init), card).state_dict(), head=[position.get(name) for name in classes])
    elif Path(init).is_file():
        state = _safetensors(Path(init))
        same = len(state.get("fc.bias", ())) == len(classes)
        _fill(network, state, head=list(range(len(classes))) if same else None)
    else:
        raise TrainingFailed(
            f"there is nothing to start from at {init}: give scratch, imagenet, a version, or a .safetensors file"
        )
    return network


def _fill(network: nn.Module, state: State, *, head: Sequence[int | None] | None) -> None:
    """Copies the body, and of the head the rows that ``head`` names for each class."""
    target = network.state_dict()
    for name, tensor in target.items():
        if name.startswith("fc."):
            for row, source in enumerate(head or ()):
                if source is not None:
                    tensor[row] = state[name][source].float()
        elif name not in state or state[name].shape != tensor.shape:
            raise TrainingFailed(
                f"the weights to start from are no ResNet34 of torchvision: {name} is missing or differs"
            )
        else:
            tensor.copy_(state[name])
    network.load_state_dict(target)


def _safetensors(file: Path) -> State:
    refuse_pickle(file)
    content = file.read_bytes()
    inspect_safetensors(file, content)  # whatever its name ends in
    state: State = load(content)
    return state


def _imagenet(pretrained: Path | None) -> State:
    advice = (
        "Set CARS_PRETRAINED to a file with ResNet34's ImageNet weights (a .safetensors, or torchvision's "
        "resnet34-b627a593.pth), or train with `--init scratch` or from a published version."
    )
    if pretrained is None:
        try:
            state: State = torch.hub.load_state_dict_from_url(
                _IMAGENET, map_location="cpu", check_hash=True, progress=False, weights_only=True
            )
            return state
        except (OSError, RuntimeError) as exc:
            raise TrainingFailed(
                f"the ImageNet weights could not be fetched from {_IMAGENET} ({exc}). {advice}"
            ) from exc
    if not pretrained.is_file():
        raise TrainingFailed(f"CARS_PRETRAINED names {pretrained}, which is not there. {advice}")
    if pretrained.suffix == ".pth" and _digest(pretrained).startswith(_IMAGENET_DIGEST):
        # The one file of this form that is opened is torchvision's own, known by its hash, and as tensors only.
        known: State = torch.load(pretrained, map_location="cpu", weights_only=True)
        return known
    try:
        return _safetensors(pretrained)
    except ModelError as exc:
        raise TrainingFailed(f"{exc} {advice}") from exc


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
