"""The weights a run starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import load
from torch import nn

from model import cards
from model.errors import ModelError
from model.inspection import inspect_safetensors, refuse_pickle
from model.network import build, load_weights
from model.training.errors import TrainingFailed
from model.training.partial_weights import Filled, fill, spans

__all__ = ["Start", "starting_network"]

State = Mapping[str, torch.Tensor]

_IMAGENET = "https://download.pytorch.org/models/resnet34-b627a593.pth"
_IMAGENET_DIGEST = "b627a593"  # the start of the file's SHA-256, which torchvision puts into its name
_NAMES_KEPT = 20  # of tensors without a place, in the card


@dataclass(frozen=True, kw_only=True)
class Start:
    """A network before its first step. `origin`: what came from where, as JSON for the card; `summary`: for the log.

    `folded`: its batch norms that were folded into convolutions, whose statistics are still to be estimated.
    """

    network: nn.Module
    origin: dict[str, JsonValue]
    summary: str
    folded: tuple[str, ...] = ()


def starting_network(init: str | Path, classes: Sequence[str], *, pretrained: Path | None, seed: int) -> Start:
    """Return a ResNet34 over `classes`.

    `init`: `scratch` (random by `seed`), `imagenet` (torchvision's weights: the file `pretrained` if given, else
    fetched), a published version's folder, or a .safetensors file with torchvision's names. The head's rows go to the
    classes of the same name; a file does not name its classes, so its head is kept if it has as many. A file may hold
    a ResNet18 or a ResNet34, with batch norms or folded, and less than all of it: see `partial_weights.fill`.
    Raises TrainingFailed, or the errors of `cards.verify`.
    """
    torch.manual_seed(seed)
    network = build(len(classes))
    if str(init) == "scratch":
        return Start(network=network, origin={"from": "scratch"}, summary="all weights are random")
    if str(init) == "imagenet":
        return _from_imagenet(network, pretrained)
    if Path(init).is_dir():
        return _from_version(network, Path(init), classes)
    if Path(init).is_file():
        return _from_file(network, Path(init), classes=len(classes))
    raise TrainingFailed(
        f"there is nothing to start from at {init}: give scratch, imagenet, a version, or a .safetensors file"
    )


def _from_imagenet(network: nn.Module, pretrained: Path | None) -> Start:
    filled = fill(network, _imagenet(pretrained), head=False)
    if filled.identity or filled.random != ("fc",):
        missing = spans([*filled.identity, *filled.random[:-1]])
        raise TrainingFailed(
            f"the ImageNet weights are not those of a whole ResNet34: {missing} is missing or differs; a file with "
            "less than that is given to `--init`"
        )
    source: dict[str, JsonValue] = {"from": "imagenet", "file": pretrained.name if pretrained else Path(_IMAGENET).name}
    return Start(
        network=network,
        origin=source | _parts(filled),
        summary=f"all but the head is taken from ImageNet weights ({source['file']})",
        folded=filled.folded,
    )


def _from_version(network: nn.Module, folder: Path, classes: Sequence[str]) -> Start:
    card = cards.verify(folder)
    position = {name: index for index, name in enumerate(card.classes)}
    rows = [position.get(name) for name in classes]
    target, state = network.state_dict(), load_weights(folder, card).state_dict()
    for name, tensor in target.items():
        if not name.startswith("fc."):
            tensor.copy_(state[name])
            continue
        for row, source in enumerate(rows):
            if source is not None:
                tensor[row] = state[name][source]
    network.load_state_dict(target)
    known = sum(row is not None for row in rows)
    return Start(
        network=network,
        origin={"from": card.name, "sha256": card.files[cards.WEIGHTS], "classes_known": known},
        summary=f"all weights are taken from {card.name}, in the head those of {known} of the {len(classes)} classes",
    )


def _from_file(network: nn.Module, file: Path, *, classes: int) -> Start:
    state, digest = _safetensors(file)
    filled = fill(network, state, head=len(state.get("fc.bias", ())) == classes)
    if not [unit for unit in filled.taken if unit != "fc"]:
        raise TrainingFailed(
            f"nothing in {file} fits a ResNet34 of torchvision: give the state of a ResNet18 or ResNet34 by "
            "torchvision's names (conv1.weight, layer1.0.conv1.weight, …), with batch norms or biases in their place"
        )
    parts = [
        f"{spans(filled.taken)} {'are' if len(filled.taken) > 1 else 'is'} taken from {file.name} ({digest[:12]}…)"
    ]
    parts += [f"{spans(filled.identity)} begin as identity"] if filled.identity else []
    parts += [f"{spans(filled.random)} at random"] if filled.random else []
    parts += [f"{len(filled.unused)} tensors of the file have no place here"] if filled.unused else []
    return Start(
        network=network,
        origin={"from": file.name, "sha256": digest, **_parts(filled)},
        summary="; ".join(parts),
        folded=filled.folded,
    )


def _parts(filled: Filled) -> dict[str, JsonValue]:
    """Return what a card says of a start; the names of what was left out are cut short."""
    return {
        "taken": list(filled.taken),
        "identity": list(filled.identity),
        "random": list(filled.random),
        "unused": list(filled.unused[:_NAMES_KEPT]),
        "folded_norms": len(filled.folded),
    }


def _safetensors(file: Path) -> tuple[State, str]:
    """Return the tensors of a file and its SHA-256. Raises TrainingFailed for numbers that are not finite."""
    refuse_pickle(file)
    content = file.read_bytes()
    inspect_safetensors(file, content)  # whatever its name ends in
    state: State = load(content)
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingFailed(f"{file}: {name} holds numbers that are not finite; nothing can be trained from it")
    return state, hashlib.sha256(content).hexdigest()


def _imagenet(pretrained: Path | None) -> State:
    advice = (
        "Set CARS_PRETRAINED to a file with ResNet34's ImageNet weights (a .safetensors, or torchvision's "
        "resnet34-b627a593.pth), or train with `--init scratch` or from a published version"
    )
    if pretrained is None:
        try:
            return _fetch_imagenet()
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
        return _safetensors(pretrained)[0]
    except ModelError as exc:
        raise TrainingFailed(f"{exc} {advice}") from exc


def _fetch_imagenet() -> State:
    state: State = torch.hub.load_state_dict_from_url(
        _IMAGENET, map_location="cpu", check_hash=True, progress=False, weights_only=True
    )
    return state


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
