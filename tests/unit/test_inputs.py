"""What teacher and student see, what the loss asks for, and how the precision of a run is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import JsonValue
from torch import nn
from torch.nn import functional

from model.training import precision
from model.training.augment import normalize, shrink
from model.training.inputs import Inputs
from model.training.losses import TrainingLoss
from model.training.precision import choose_precision
from model.training.recipes import Plan, make_plan, training_loss

MEAN, STD = (torch.tensor(part).view(1, 3, 1, 1) for part in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
CPU = torch.device("cpu")
PHOTOS = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 1])


class Listener:
    """A teacher that keeps what it was asked about; its logits are the mean colors."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: list[torch.Tensor] = []

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(pixels)
        return pixels.mean(dim=(2, 3))


def plan(teacher: int, **options: JsonValue) -> Plan:
    return make_plan(
        "distill", gpu=False, epochs=10, teacher_size=teacher, options={"progressive_sizes": [[1.0, 16]], **options}
    )


def made_with(plan: Plan, teacher: Listener) -> Inputs:
    return Inputs(plan=plan, classes=3, teacher=teacher)  # type: ignore[arg-type]  # no more of a teacher is used


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_the_student_sees_what_the_teacher_sees_only_smaller(mixup: float) -> None:
    torch.manual_seed(1)  # the photos are mixed with others by a visible part
    teacher = Listener(32)
    inputs = made_with(plan(32, mixup_probability=mixup), teacher)
    pixels, (target, logits) = inputs.make(PHOTOS, LABELS, epoch=0, number=0)
    (seen,) = teacher.seen
    assert seen.shape == (4, 3, 32, 32)
    small = functional.interpolate(seen, size=(16, 16), mode="bilinear", antialias=True)
    assert torch.equal(pixels, normalize(small))
    assert torch.equal(logits, seen.mean(dim=(2, 3)))
    assert target.shape == (4, 3)
    assert torch.equal(target, functional.one_hot(LABELS, 3).float()) == (not mixup)


def test_a_teacher_that_looks_at_less_than_the_student_sees_the_same_view_too() -> None:
    teacher = Listener(8)
    inputs = made_with(plan(8, mixup_probability=0.0), teacher)
    pixels, _ = inputs.make(PHOTOS, LABELS, epoch=0, number=0)
    assert torch.allclose(teacher.seen[0], shrink(pixels * STD + MEAN, 8), atol=1e-5)


@pytest.mark.parametrize("fresh", [0.3, 1.0])
def test_images_are_used_again_with_their_own_answers_within_an_epoch(fresh: float) -> None:
    teacher = Listener(16)
    inputs = made_with(plan(16, mixup_probability=0.0, distillation={"size": 16, "fresh": fresh}), teacher)
    torch.manual_seed(0)
    for number in range(60):
        before = len(teacher.seen)
        pixels, (soft, logits) = inputs.make(PHOTOS, LABELS, epoch=0, number=number)
        if len(teacher.seen) > before:
            continue
        assert number >= 20
        back = pixels * STD + MEAN
        assert torch.allclose(back.mean(dim=(2, 3)), logits, atol=0.01)  # what this teacher says of it
        assert soft.sum(dim=1).tolist() == [1.0] * 4
    asked = len(teacher.seen)
    assert asked == 60 if fresh == 1 else 20 < asked < 50
    for number in range(20):  # the next epoch knows nothing of it
        inputs.make(PHOTOS, LABELS, epoch=1, number=number)
    assert len(teacher.seen) == asked + 20


def test_photos_are_kept_large_enough_for_the_teacher() -> None:
    assert plan(100).stored_size == 115
    assert replace(plan(100), distillation=None).stored_size == round(1.15 * 16)


def test_the_loss_is_a_weighted_sum_of_the_teachers_and_the_labels() -> None:
    logits, teacher = torch.randn(5, 3), torch.randn(5, 3) * 3
    labels = torch.tensor([0, 1, 2, 0, 1])
    meant = functional.softmax(teacher / 2, dim=1)
    divergence = (meant * (meant.log() - functional.log_softmax(logits / 2, dim=1))).sum(dim=1).mean() * 4
    own = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    loss = training_loss(plan(32))
    assert torch.allclose(loss(logits, labels, teacher), 0.7 * divergence + 0.3 * own, atol=1e-5)
    assert torch.allclose(loss(logits, labels), own)  # photos that the teacher was not asked about
    assert TrainingLoss("label_smoothing")(logits, labels) == own
    expected = 0.3 * functional.cross_entropy(teacher, labels, label_smoothing=0.1)
    assert float(loss(teacher, labels, teacher) - expected) < 1e-5


@pytest.mark.parametrize(("ratio", "taken"), [(1.6, True), (1.0, False)])
def test_bfloat16_is_used_where_it_pays(ratio: float, taken: bool) -> None:
    network = nn.Linear(1, 1)
    chosen, words = choose_precision(
        plan(32), network, device=CPU, supported=lambda _device: True, measure=lambda *_, **__: ratio
    )
    assert (chosen.bfloat16, chosen.bfloat16_ratio) == (taken, ratio)
    assert f"{ratio:.2f} times as fast" in words
    again = choose_precision(chosen, network, device=CPU, measure=lambda *_, **__: 1 / ratio)
    assert again[0] == chosen  # a run continues as it began


def test_a_processor_without_bfloat16_is_not_measured() -> None:
    chosen, words = choose_precision(
        plan(32),
        nn.Linear(1, 1),
        device=CPU,
        supported=lambda _device: False,
        measure=lambda *_, **__: pytest.fail("measured"),
    )
    assert (chosen.bfloat16, chosen.bfloat16_ratio) == (False, None)
    assert "float32" in words


def test_a_ratio_can_be_measured() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert precision.bfloat16_ratio(network, batch=2, size=8, device=CPU) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
