"""Partial starts: what fits of a ResNet's tensors is taken, and the network begins as the function that they make.

A network is seen in units: the stem `conv1`, each residual block such as `layer1.0`, the shortcut of a block that has
convolutions of its own such as `layer2.0.downsample`, and the head `fc`. A unit is taken whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

__all__ = ["Filled", "estimate_norm_statistics", "fill", "spans"]

State = Mapping[str, torch.Tensor]
_LEAST_VARIANCE = 1e-4  # of a channel that is nearly constant, by which its norm would otherwise be multiplied


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What became of each unit.

    `folded`: the norms that stand for one folded into its convolution, whose statistics are still to be estimated.
    `taken` from the tensors, `identity`: blocks that begin as their shortcut alone, `random`: the rest;
    `unused`: names of tensors that have no place.
    """

    taken: tuple[str, ...]
    identity: tuple[str, ...]
    random: tuple[str, ...]
    unused: tuple[str, ...]
    folded: tuple[str, ...]


def fill(network: nn.Module, state: State, *, head: bool) -> Filled:
    """Copy into a ResNet what fits of `state`, torchvision's names with batch norms or with biases in their place.

    Blocks of which nothing is there begin as identity. `head`: whether the head may be taken.
    """
    target = network.state_dict()
    taken: list[str] = []
    identity: list[str] = []
    random: list[str] = []
    folded: list[str] = []
    used: set[str] = set()
    for unit, layers in _units(target):
        found = [_found(target, state, convolution, norm) for convolution, norm in layers]
        if all(found) and (unit != "fc" or head):
            taken.append(unit)
            for (convolution, norm), names in zip(layers, found, strict=True):
                folded += [norm] if _copy(target, state, convolution, norm) else []
                used |= set(names)
        elif len(layers) == 2:
            identity.append(unit)
            for name in ("weight", "bias"):
                target[f"{layers[-1][1]}.{name}"].zero_()
        else:
            random.append(unit)
    network.load_state_dict(target)
    unused = sorted(name for name in state if name not in used and not name.endswith("num_batches_tracked"))
    return Filled(
        taken=tuple(taken),
        identity=tuple(identity),
        random=tuple(random),
        unused=tuple(unused),
        folded=tuple(folded),
    )


@torch.no_grad()
def estimate_norm_statistics(network: nn.Module, norms: Sequence[str], batches: Iterable[torch.Tensor]) -> int:
    """Give norms the statistics of their inputs over `batches` without changing what the network computes.

    With the mean and variance found, gamma becomes gamma * sqrt(var + eps) and beta becomes beta + gamma * mean: in
    evaluation the two cancel, and in training a batch is then normalized to what the next layer was trained on.
    Returns the number of images seen; the network is left in evaluation mode.
    """
    network.eval()
    modules = dict(network.named_modules())
    sums: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in norms}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def look(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            values = inputs[0].double()
            sums[name].append((values.mean(dim=(0, 2, 3)), values.square().mean(dim=(0, 2, 3))))

        handle: torch.utils.hooks.RemovableHandle = modules[name].register_forward_pre_hook(look)
        return handle

    handles = [watch(name) for name in norms]
    count = 0
    try:
        for batch in batches:
            network(batch)
            count += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    for name in norms:
        mean, square = (torch.stack(parts).mean(dim=0) for parts in zip(*sums[name], strict=True))
        _set_statistics(modules[name], mean, (square - mean.square()).clamp_min(_LEAST_VARIANCE))
    return count


def spans(units: Sequence[str]) -> str:
    """Return units in words, neighbours together: `conv1, layer1.0-1, fc`."""
    parts: list[str] = []
    for layer, members in groupby(units, key=lambda unit: unit.partition(".")[0]):
        group = list(members)
        numbers = [int(unit.rpartition(".")[2]) for unit in group if unit.rpartition(".")[2].isdigit()]
        if numbers:
            first, last = numbers[0], numbers[-1]
            whole = len(numbers) > 1 and numbers == list(range(first, last + 1))
            parts += [f"{layer}.{first}-{last}"] if whole else [f"{layer}.{number}" for number in numbers]
        parts += [unit for unit in group if not unit.rpartition(".")[2].isdigit()]
    return ", ".join(parts)


def _units(target: State) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Return each unit with its layers, as (convolution or head, its norm or nothing), from the image to the head."""
    yield "conv1", [("conv1", "bn1")]
    for first in [name for name in target if name.endswith(".conv1.weight")]:
        block = first.removesuffix(".conv1.weight")
        if f"{block}.downsample.0.weight" in target:
            yield f"{block}.downsample", [(f"{block}.downsample.0", f"{block}.downsample.1")]
        yield block, [(f"{block}.conv1", f"{block}.bn1"), (f"{block}.conv2", f"{block}.bn2")]
    yield "fc", [("fc", "")]


def _found(target: State, state: State, layer: str, norm: str) -> list[str]:
    """Return the names of the layer's tensors in `state` if they are there and fit, with the norm or with it folded."""
    convolution = f"{layer}.weight"
    whole = [convolution, *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]
    if norm and all(_fits(target.get(name), state.get(name)) for name in whole):
        return whole
    width = target[convolution].shape[:1]
    bias = state.get(f"{layer}.bias")
    if _fits(target[convolution], state.get(convolution)) and bias is not None and bias.shape == width:
        return [convolution, f"{layer}.bias"]
    return []


def _fits(place: torch.Tensor | None, tensor: torch.Tensor | None) -> bool:
    return place is not None and tensor is not None and place.shape == tensor.shape


def _copy(target: State, state: State, layer: str, norm: str) -> bool:
    """Copy one layer; return whether its norm was folded, and is now one that adds the bias and does nothing else."""
    target[f"{layer}.weight"].copy_(state[f"{layer}.weight"])
    if not norm:
        target[f"{layer}.bias"].copy_(state[f"{layer}.bias"])
        return False
    if len(_found(target, state, layer, norm)) > 2:
        for part in ("weight", "bias", "running_mean", "running_var"):
            target[f"{norm}.{part}"].copy_(state[f"{norm}.{part}"])
        return False
    target[f"{norm}.weight"].fill_(1)
    target[f"{norm}.bias"].copy_(state[f"{layer}.bias"])
    target[f"{norm}.running_mean"].zero_()
    target[f"{norm}.running_var"].fill_(1 - nn.BatchNorm2d(1).eps)
    return True


def _set_statistics(norm: nn.Module, mean: torch.Tensor, variance: torch.Tensor) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.copy_(norm.bias.double() + scale * (mean - norm.running_mean.double()))
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
