"""Records of `cars doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.records.base import Record

__all__ = ["CheckResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult(Record):
    """What one check of `cars doctor` found, and what to do where it failed."""

    check: str
    ok: bool
    detail: str
    advice: str
