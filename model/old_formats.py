"""Cards and plans that earlier releases wrote: their field names, read as those of today.

Cards of format 1 (release 0.1.0) and 2, and the plans of that time: in cards, in the folders of runs, and in the
database. Nothing is ever written in these names.
"""

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["OLD_CARD_FORMATS", "current_card", "current_loss", "current_plan"]

OLD_CARD_FORMATS: Final = (1, 2)
CARD_FORMAT: Final = 3

# Part → old name → the name of today.
_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "thresholds": {"known": "ood", "known_for_model": "ood_for_model"},
    "ood threshold": {"least": "threshold"},
    "metrics": {"unknown_rejection": "ood", "other_photos": "ood_images"},
    "metrics.ood": {
        "known_rejected_at_most": "rejected_at_most",
        "known_rejected": "rejected",
        "held_out_classes": "unseen_classes",
    },
    "recipe": {"peak_rates": "lr_max"},
    "plan": {
        "stages": "phases",
        "sizes": "progressive_sizes",
        "test_sizes": "eval_sizes",
        "batch": "batch_size",
        "views": "augmentation",
        "mixing": "mixup_cutmix",
        "average": "ema_decay",
        "warm_up": "warmup_epochs",
    },
    "phase": {"peak": "lr_max", "spread": "layer_lr_decay"},
}
_LOSSES: Final = {"smooth": "label_smoothing"}
_SINCE_2: Final = ("known_for_model", "confusable")  # parts of `thresholds` that no card of format 1 has


def current_card(document: Any) -> Any:
    """Return a card's JSON in the names of today; what is not an old card comes back as it is.

    Raises ValueError for a card of format 1 with parts that came later, and for a field under its old and new name.
    """
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        return document
    if document["format"] not in OLD_CARD_FORMATS:
        return document
    if document["format"] == 1:
        _refuse_newer_parts(document)
    card = {**document, "format": CARD_FORMAT}
    thresholds = _renamed("thresholds", document.get("thresholds"))
    if isinstance(thresholds, dict):
        for name in ("ood", "ood_for_model"):
            if name in thresholds:
                thresholds[name] = _renamed("ood threshold", thresholds[name])
    metrics = _renamed("metrics", document.get("metrics"))
    if isinstance(metrics, dict) and "ood" in metrics:
        metrics["ood"] = _renamed("metrics.ood", metrics["ood"])
    recipe = _renamed("recipe", document.get("recipe"))
    if isinstance(recipe, dict):
        if "loss" in recipe:
            recipe["loss"] = current_loss(recipe["loss"])
        if isinstance(recipe.get("plan"), dict):
            recipe["plan"] = current_plan(recipe["plan"])
    parts = {"thresholds": thresholds, "metrics": metrics, "recipe": recipe}
    return card | {name: part for name, part in parts.items() if name in document}


def current_plan(document: Mapping[str, Any]) -> dict[str, Any]:  # of many types, which Plan checks
    """Return a plan's JSON, or some fields of it, in the names of today; newer plans come back as they are."""
    plan: dict[str, Any] = _renamed("plan", dict(document))
    if isinstance(plan.get("phases"), list):
        plan["phases"] = [_renamed("phase", phase) for phase in plan["phases"]]
    if "loss" in plan:
        plan["loss"] = current_loss(plan["loss"])
    return plan


def current_loss(name: Any) -> Any:
    """Return the name that a loss has today."""
    return _LOSSES.get(name, name) if isinstance(name, str) else name


def _renamed(part: str, fields: Any) -> Any:
    """Return a copy of a part's fields with the names of today."""
    if not isinstance(fields, dict):
        return fields
    names = _NAMES[part]
    twice = [old for old, new in names.items() if old in fields and new in fields]
    if twice:
        raise ValueError(f"{part} has {twice[0]} and {names[twice[0]]}, which are the same field")
    return {names.get(name, name): value for name, value in fields.items()}


def _refuse_newer_parts(document: Mapping[str, Any]) -> None:
    if document.get("class_parts"):
        raise ValueError("class_parts needs format 2")
    thresholds = document.get("thresholds")
    for name in _SINCE_2:
        if isinstance(thresholds, dict) and thresholds.get(name) is not None:
            raise ValueError(f"thresholds.{name} needs format 2")
