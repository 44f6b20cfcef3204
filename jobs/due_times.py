"""When a schedule is due: by a cron expression in a time zone, or every so many seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from jobs.durations import span
from jobs.errors import SettingsInvalid

__all__ = ["Timing", "timing"]

LEAST, MOST = timedelta(seconds=5), timedelta(days=3660)
CRON_GRAIN = timedelta(minutes=1)  # two due times of a cron expression are never nearer


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Either `cron` with `timezone`, or `every`, which counts from `anchor`. All due times are in UTC."""

    cron: str | None = None
    timezone: str | None = None
    every: timedelta | None = None
    anchor: datetime

    def after(self, moment: datetime) -> datetime | None:
        """Return the first due time later than `moment`, or None when there is none within 50 years."""
        return next(self._later(moment), None)

    def newest(self, first: datetime, until: datetime, *, most: int) -> list[datetime]:
        """List the due times from `first`, which is one, up to `until`, in order; of more than `most`, the newest."""
        if until < first:
            return []
        window = (self.every or CRON_GRAIN) * most
        while (start := until - window) > first:  # a long outage of a frequent schedule is not walked through
            found = list(takewhile(lambda due: due <= until, self._later(start)))
            if len(found) >= most:
                return found[-most:]
            window *= 2
        return list(takewhile(lambda due: due <= until, chain([first], self._later(first))))[-most:]

    def _later(self, moment: datetime) -> Iterator[datetime]:
        if self.every is not None:
            passed = max(0, (moment - self.anchor) // self.every)
            while True:
                passed += 1
                yield self.anchor + passed * self.every
        assert self.cron is not None
        for local in CronSim(self.cron, moment.astimezone(ZoneInfo(self.timezone or "UTC"))):
            due = local.astimezone(UTC)
            if due > moment:  # from within the second of two equal hours cronsim answers with times of the first one
                moment = due
                yield due


def timing(*, cron: str | None, timezone: str | None, every: str | timedelta | None, anchor: datetime) -> Timing:
    """Return what a user asks for, checked. Raises SettingsInvalid, naming what cannot be used."""
    if (cron is None) == (every is None):
        raise SettingsInvalid("a schedule needs either cron (--cron '0 2 * * *') or every (--every 15m), not both")
    if every is not None:
        if timezone is not None:
            raise SettingsInvalid("timezone goes with cron only: every counts from the schedule's creation")
        return Timing(every=_interval(every), anchor=anchor)
    assert cron is not None
    zone = _zone("UTC" if timezone is None else timezone)
    text = " ".join(cron.split())
    if len(text.split(" ")) != 5:
        raise SettingsInvalid(f"cron {cron!r} must have five fields: minute, hour, day of month, month, day of week")
    try:
        found = Timing(cron=text, timezone=zone, anchor=anchor)
        comes = found.after(anchor) is not None
    except CronSimError as exc:
        part = str(exc).removeprefix("Bad ").replace("-", " ")
        raise SettingsInvalid(f"cron {cron!r} never comes or cannot be read: look at its {part}") from exc
    if not comes:
        raise SettingsInvalid(f"cron {cron!r} never comes: no day of the next 50 years fits it")
    return found


def _interval(every: str | timedelta) -> timedelta:
    try:
        interval = span(every) if isinstance(every, str) else every
    except ValueError as exc:
        raise SettingsInvalid(f"every {exc}") from exc
    if not LEAST <= interval <= MOST:
        raise SettingsInvalid(f"every must be from 5s to {MOST.days}d, not {every}")
    return interval


def _zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (KeyError, ValueError, OSError) as exc:
        raise SettingsInvalid(f"timezone {name!r} is not known: write one such as Europe/Berlin or UTC") from exc
