"""Spans of time as people write them: `90d`, `12h`, `30m`, `45s`, `2w`, and back."""

import re
from datetime import UTC, datetime, timedelta

__all__ = ["moment_or_age", "readable", "span", "written"]

_DAYS_AGO = {"today": 0, "yesterday": 1}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def span(text: str) -> timedelta:
    """Return the span that `text` writes; raises ValueError with what it may be."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if not match:
        raise ValueError(f"{text!r} is not a span of time: write 90d, 12h, 30m or 45s")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError as exc:
        raise ValueError(f"{text!r} is too long a span of time") from exc


def written(length: timedelta) -> str:
    """Return the shortest text of whole units that `span` reads as this: `15m`, `90s`, `1d`."""
    for unit, name in reversed(_UNITS.items()):
        if name != "weeks" and length % timedelta(**{name: 1}) == timedelta(0):
            return f"{length // timedelta(**{name: 1})}{unit}"
    return f"{length.total_seconds():.6f}".rstrip("0") + "s"


def moment_or_age(text: str) -> str:
    """Return an ISO date or time as it is; `today` and `yesterday` (days of UTC) and an age such as `7d` as ISO times;
    raises ValueError.
    """
    now = datetime.now(UTC)
    name = text.strip().lower()
    if name in _DAYS_AGO:
        return f"{now.date() - timedelta(days=_DAYS_AGO[name])}T00:00:00+00:00"
    try:
        datetime.fromisoformat(text)
    except ValueError:
        try:
            return (now - span(text)).isoformat(timespec="seconds")
        except (ValueError, OverflowError) as exc:
            raise ValueError(
                f"{text!r} is not a date (2026-01-31), a time (2026-01-31T12:00), today, yesterday or an age (7d)"
            ) from exc
    return text


def readable(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
