"""How pages are made: Jinja2 with everything escaped, and what templates need to show numbers, times and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from jobs.durations import readable
from jobs.states import Decision
from jobs.terminal import safe

__all__ = ["MEANINGS", "environment"]

MEANINGS: Mapping[str, str] = {
    Decision.MODEL: "the label can be trusted",
    Decision.MAKE: "only the make can be trusted",
    Decision.UNKNOWN: "neither can be trusted; the label is a guess",
}
"""Each decision in words."""


@cache
def environment(*packages: str) -> Environment:
    """Return the environment with the templates of these packages (in their folders `templates`) and of this one."""
    loaders = [PackageLoader(package) for package in (*packages, "jobs.report")]
    made = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"name": safe, "number": _number, "percent": _percent, "moment": _moment, "span": _span}
    made.globals |= {"meanings": MEANINGS, "fraction": _fraction, "stacked": _stacked}
    return made


def _number(value: float | None) -> str:
    """With thousands apart by a narrow space; nothing for None."""
    if value is None:
        return "–"
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else f"{value:,.1f}".replace(",", "\u202f")


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _moment(text: str | None) -> str:
    """A time of a record, in UTC and to the minute."""
    if text is None:
        return "–"
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _span(seconds: float | None) -> str:
    return "–" if seconds is None else readable(seconds)


def _fraction(part: float, whole: float) -> float:
    """`part` of `whole`, 0 where there is nothing."""
    return part / whole if whole else 0.0


def _stacked(rows: Sequence[Sequence[int]]) -> list[list[tuple[float, float]]]:
    """Return for each of the rows and columns (y, height) of its rectangle, on a scale of 100 down from the top: the
    rows stand on each other, and the highest column takes all of it.
    """
    highest = max((sum(column) for column in zip(*rows, strict=True)), default=0) or 1
    below = [0.0] * (len(rows[0]) if rows else 0)
    found = []
    for row in rows:
        heights = [100 * value / highest for value in row]
        below = [base + height for base, height in zip(below, heights, strict=True)]
        found.append([(100 - top, height) for top, height in zip(below, heights, strict=True)])
    return found
