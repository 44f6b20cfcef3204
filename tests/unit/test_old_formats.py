"""Cards and plans of earlier releases are read in the names of today."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from model import cards
from model.cards import Confusable, OodThreshold
from model.errors import CardInvalid
from model.old_formats import current_plan
from model.training.augment import Augmentation
from model.training.recipes import Phase, Plan, make_plan
from tests.support.artifacts import CLASSES, card_fields

OLD = Path(__file__).parents[1] / "fixtures" / "release_0_1_0"
BUNDLED = Path(cards.__file__).parent / "bundled"
PLAN = Plan(
    recipe="scratch",
    phases=(Phase(epochs=36, lr_max=0.03),),
    progressive_sizes=((0.72, 96), (1.0, 128)),
    eval_sizes=(128, 144, 160),
    batch_size=32,
    optimizer="sgd",
    weight_decay=0.001,
    loss="cosine",
    augmentation=Augmentation(crop=0.45, strong=True),
    mixup_cutmix=False,
    ema_decay=0.9995,
    warmup_epochs=1,
)


def test_the_bundled_card_of_format_2_is_read_and_keeps_its_digest() -> None:
    card = cards.read(BUNDLED)
    assert card.thresholds.ood == OodThreshold(score="centered_logit", threshold=5.951044656792467)
    assert card.thresholds.ood_for_model == OodThreshold(score="logit_margin", threshold=5.198885175916884)
    assert isinstance(card.thresholds.confusable, Confusable)
    metrics = card.metrics.model_dump()
    assert metrics["ood"]["rejected_at_most"] == 0.0125
    assert metrics["ood_images"]["holdout"]["decided_model"] == 2
    assert cards.digest(BUNDLED) == hashlib.sha256((BUNDLED / "card.json").read_bytes()).hexdigest()


def test_a_card_of_0_1_0_is_read_with_its_plan() -> None:
    card = cards.parse_card((OLD / "card.json").read_bytes())
    assert (card.name, card.metrics.model_dump()["top1_count"]) == ("resnet34-cars-2", 552)
    assert card.thresholds.ood is not None
    assert card.thresholds.ood.score == "energy"
    recipe = card.recipe.model_dump()
    assert Plan.from_json(recipe["plan"]) == PLAN
    assert recipe["lr_max"] == [0.03]


def test_a_card_that_was_read_is_written_in_the_names_of_today() -> None:
    for file in (BUNDLED / "card.json", OLD / "card.json"):
        card = cards.parse_card(file.read_bytes())
        assert cards.parse_card(card.to_bytes()) == card
        assert json.loads(card.to_bytes())["format"] == 3


def test_a_plan_of_0_1_0_is_read() -> None:
    assert Plan.from_json(json.loads((OLD / "plan.json").read_text())["plan"]) == PLAN


def test_options_that_an_earlier_release_has_registered_are_taken() -> None:
    options: dict[str, Any] = {
        "stages": [{"epochs": 2, "peak": 0.5, "spread": 0.1}],
        "sizes": [[1.0, 24]],
        "views": {"crop": 1.0, "strong": False},
        "loss": "smooth",
        "batch": 8,
    }
    plan = make_plan("scratch", gpu=False, options=options)
    assert plan.phases == (Phase(epochs=2, lr_max=0.5, layer_lr_decay=0.1),)
    assert (plan.loss, plan.batch_size, plan.progressive_sizes) == ("label_smoothing", 8, ((1.0, 24),))


def test_a_plan_of_today_stays_as_it_is() -> None:
    document = make_plan("finetune", gpu=True).to_json()
    assert current_plan(document) == document


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1, "class_parts": {CLASSES[0]: {}}}, "class_parts needs format 2"),
        ({"format": 3, "thresholds": {"known": None}}, "thresholds.known: this release"),
        ({"format": 2, "thresholds": {"known": None, "ood": None}}, "which are the same field"),
    ],
)
def test_names_of_another_format_are_refused(changes: dict[str, Any], message: str) -> None:
    fields = card_fields(**changes)
    fields["thresholds"] = {**card_fields()["thresholds"], **fields["thresholds"]}
    with pytest.raises(CardInvalid, match=message):
        cards.parse_card(json.dumps(fields).encode())
