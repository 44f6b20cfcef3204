"""How far a run has come, as it reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from pydantic import JsonValue

__all__ = ["RunProgress"]


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """A run after `epoch` of `epochs` whole epochs and `epoch_share` (0 to 1) of the next one.

    `valid_loss` and `accuracy` are those of `calibration`, None within an epoch. `network_images_per_second` is what
    the network alone reaches, None before it was timed; `eta_seconds` is None before anything was trained.
    """

    epoch: int
    epochs: int
    epoch_share: float
    train_loss: float
    images_per_second: float
    eta_seconds: float | None
    image_size: int | None = None
    network_images_per_second: float | None = None
    valid_loss: float | None = None
    accuracy: float | None = None

    @property
    def is_whole_epoch(self) -> bool:
        """Whether this is the end of an epoch, evaluated on `calibration`."""
        return self.accuracy is not None

    def to_json(self) -> dict[str, JsonValue]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave, in this release or an earlier one, which had fewer fields."""
        return cls(**{field.name: document[field.name] for field in fields(cls) if field.name in document})
