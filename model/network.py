"""The one place where ResNet34 is built, for training and for serving."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from torchvision.models import resnet34

from model.cards import WEIGHTS, CardDraft, read_verified
from model.errors import ArtifactCorrupt

__all__ = ["build", "load_weights"]


def build(classes: int) -> nn.Module:
    """Return a ResNet34 with random weights and one head over `classes`: float32 (N, 3, S, S) in, logits (N, classes)
    out.

    The last norm of every residual block starts at zero, so that each block starts as the identity (Goyal et al.,
    "Accurate, Large Minibatch SGD", 2017, section 5.1).
    """
    network: nn.Module = resnet34(weights=None, num_classes=classes, zero_init_residual=True)
    return network


def load_weights(folder: Path, card: CardDraft) -> nn.Module:
    """Return the version's network in evaluation mode, float32, on the CPU.

    Raises ArtifactCorrupt if the file's hash differs from the card's or the tensors are not this network's,
    and ArtifactUnsafe if its header is oversized or inconsistent.
    """
    with torch.device("meta"):
        network = build(len(card.classes))
    try:
        tensors = load(read_verified(folder, card, WEIGHTS))
        state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
        network.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, SafetensorError) as exc:
        raise ArtifactCorrupt(
            f"{folder / WEIGHTS} does not hold the weights of a ResNet34 with {len(card.classes)} classes: {exc}; "
            "fetch or import the version again"
        ) from exc
    return network.eval()
