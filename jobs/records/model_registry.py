"""Records of the model registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from jobs.records.base import Record, Selected, iso
from jobs.states import VersionState

__all__ = ["ModelVersion", "Promotion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion(Record):
    """A model version as a line of the registry; `top1` is its accuracy on the holdout, by its card."""

    name: str
    production: bool
    state: VersionState
    top1: float | None
    created_at: str | None
    registered_at: str

    @classmethod
    def from_row(cls, row: Selected, *, production: bool) -> Self:
        """Make one of a row of `queries.versions`."""
        metrics: Mapping[str, Any] = row.card.get("metrics") or {}
        return cls(
            name=row.name,
            production=production,
            state=VersionState(row.state),
            top1=metrics.get("top1"),
            created_at=row.card.get("created_at"),
            registered_at=iso(row.registered_at),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion(Record):
    """That a version was in production from `since` until `until` (None: until now), and why it became so."""

    model_version: str
    since: str
    until: str | None
    reason: str

    _json_names: ClassVar[Mapping[str, str]] = {"since": "from"}  # a keyword of Python
