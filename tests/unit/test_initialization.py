"""Starts that are only part of a ResNet34: what is taken, what the rest begins as, and how statistics are estimated."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, resnet50

from model.network import build
from model.training.errors import TrainingFailed
from model.training.initialization import Start, starting_network
from model.training.partial_weights import estimate_norm_statistics, fill, spans

CLASSES = ("one", "two", "three")
EIGHTEEN = ["conv1", *(f"layer{stage}.{block}" for stage in range(1, 5) for block in (0, 1))]


def made(network: nn.Module) -> nn.Module:
    """The network with norms as after training: no statistic, gamma or beta is what it was initialized to."""
    random = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=random)
            for tensor in (module.bias, module.running_mean):
                assert tensor is not None
                tensor.data.uniform_(-0.2, 0.2, generator=random)
    return network.eval()


def folded(network: nn.Module) -> dict[str, torch.Tensor]:
    """The network's state with each norm multiplied into the convolution before it: `NAME.weight`, `NAME.bias`."""
    state, modules = {}, dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            parent, _, last = name.rpartition(".")
            norm = modules[f"{parent}.1" if last == "0" else name.replace("conv", "bn")]
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_var is not None
            assert norm.running_mean is not None
            scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
            state[f"{name}.weight"] = module.weight.detach() * scale.view(-1, 1, 1, 1)
            state[f"{name}.bias"] = (norm.bias - norm.running_mean * scale).detach().contiguous()
    return state


def start(tmp_path: Path, state: dict[str, torch.Tensor], classes: tuple[str, ...] = CLASSES) -> Start:
    save_file(state, tmp_path / "start.safetensors")
    return starting_network(tmp_path / "start.safetensors", classes, pretrained=None, seed=0)


def features(network: nn.Module, photos: torch.Tensor) -> torch.Tensor:
    """What the body computes, before the head."""
    body = nn.Sequential(*[module for name, module in network.named_children() if name != "fc"])
    with torch.inference_mode():
        computed: torch.Tensor = body.eval()(photos)
    return computed.flatten(1)


def parts(begun: Start, origin: str) -> list[str]:
    """The names in one list of the origin."""
    found = begun.origin[origin]
    assert isinstance(found, list)
    return [str(name) for name in found]


@pytest.mark.parametrize("fold", [False, True])
def test_a_resnet18_makes_a_resnet34_that_computes_the_same(fold: bool, tmp_path: Path) -> None:
    small = made(resnet18(num_classes=1000))
    state = folded(small) if fold else small.state_dict()
    begun = start(tmp_path, state)
    assert set(EIGHTEEN) <= set(parts(begun, "taken"))
    assert "layer1.2" in parts(begun, "identity")
    assert begun.origin["random"] == ["fc"]
    assert begun.origin["folded_norms"] == (20 if fold else 0)
    photos = torch.rand(2, 3, 64, 64)
    assert torch.allclose(features(small, photos), features(begun.network, photos), rtol=1e-3, atol=1e-4)


def test_a_file_that_lacks_a_stage_is_taken_as_far_as_it_goes(tmp_path: Path) -> None:
    state = folded(made(resnet18()))
    kept = {
        name: tensor.half()
        for name, tensor in state.items()
        if not name.startswith("layer4") or name.startswith("layer4.0.downsample")
    }
    begun = start(tmp_path, kept)
    assert begun.origin["sha256"] == hashlib.sha256((tmp_path / "start.safetensors").read_bytes()).hexdigest()
    assert "layer4.0.downsample" in parts(begun, "taken")
    assert parts(begun, "identity")[-3:] == ["layer4.0", "layer4.1", "layer4.2"]
    assert begun.origin["unused"] == []
    assert "layer1.2, layer2.2-3, layer3.2-5, layer4.0-2 begin as identity" in begun.summary
    assert "start.safetensors" in begun.summary
    taken = begun.network.state_dict()["layer4.0.downsample.0.weight"]
    assert torch.equal(taken, kept["layer4.0.downsample.0.weight"].float())


def test_a_whole_resnet34_is_taken_with_a_head_of_as_many_classes(tmp_path: Path) -> None:
    network = made(build(3))
    begun = start(tmp_path, network.state_dict())
    assert begun.folded == ()
    assert (begun.origin["identity"], begun.origin["random"]) == ([], [])
    assert all(torch.equal(tensor, begun.network.state_dict()[name]) for name, tensor in network.state_dict().items())
    other = start(tmp_path, network.state_dict(), (*CLASSES, "four"))
    assert other.origin["random"] == ["fc"]


def test_half_a_block_is_not_a_block(tmp_path: Path) -> None:
    state = made(build(3)).state_dict()
    del state["layer2.1.conv2.weight"]
    begun = start(tmp_path, state)
    assert begun.origin["identity"] == ["layer2.1"]
    assert float(begun.network.state_dict()["layer2.1.bn2.weight"].abs().sum()) == 0
    assert "layer2.1.conv1.weight" in parts(begun, "unused")


def test_a_file_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    head = {"fc.weight": torch.ones(3, 512), "fc.bias": torch.ones(3)}
    for state in ({"features.0.weight": torch.ones(4, 3, 3, 3)}, head):
        with pytest.raises(TrainingFailed, match=r"nothing in .* fits a ResNet34"):
            start(tmp_path, state)
    broken = made(build(3)).state_dict()
    broken["conv1.weight"][0] = float("nan")
    with pytest.raises(TrainingFailed, match=r"conv1\.weight holds numbers that are not finite"):
        start(tmp_path, broken)


def test_of_another_resnet_no_block_is_taken() -> None:
    filled = fill(build(3), resnet50().state_dict(), head=False)
    assert filled.taken == ("conv1",)
    assert len(filled.unused) > 100


def test_estimating_changes_the_statistics_and_not_the_function() -> None:
    network = build(3)
    filled = fill(network, folded(made(resnet18())), head=False)
    photos = [torch.rand(16, 3, 64, 64) for _ in range(2)]
    network.eval()
    with torch.inference_mode():
        before = network(photos[0])
    assert estimate_norm_statistics(network, filled.folded, photos) == 32
    with torch.inference_mode():
        after = network(photos[0])
        assert torch.allclose(before, after, rtol=1e-3, atol=1e-4)
        trained = network.train()(torch.cat(photos))  # normalized by the batch's own statistics: these very ones
        together = network.eval()(torch.cat(photos))
    assert torch.allclose(trained, together, rtol=0.05, atol=0.02 * float(together.abs().max()))
    assert not torch.equal(network.state_dict()["bn1.running_mean"], torch.zeros(64))


def test_units_in_words() -> None:
    assert spans(["conv1", "layer1.0", "layer1.1", "layer2.0.downsample", "layer2.0", "layer2.2", "fc"]) == (
        "conv1, layer1.0-1, layer2.0, layer2.2, layer2.0.downsample, fc"
    )
