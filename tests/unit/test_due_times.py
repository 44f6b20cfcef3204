"""When schedules are due: by cron, also on the nights on which clocks change, and by an interval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from jobs.due_times import Timing, timing
from jobs.errors import SettingsInvalid

START = datetime(2027, 1, 1, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cron(expression: str, timezone: str | None = None) -> Timing:
    return timing(cron=expression, timezone=timezone, every=None, anchor=START)


def every(interval: str) -> Timing:
    return timing(cron=None, timezone=None, every=interval, anchor=START)


def between(when: Timing, first: str, last: str) -> list[str]:
    """Ask for each time after the one before, as workers do."""
    found, moment = [], utc(first)
    while (due := when.after(moment)) is not None and due <= utc(last):
        found.append(due.strftime("%m-%d %H:%M"))
        moment = due
    return found


NIGHTS = [
    # Berlin, 28 March 2027: 02:00 CET is 03:00 CEST, so that there is no 02:30. It fires right after the gap.
    ("30 2 * * *", "Europe/Berlin", "2027-03-26T12:00", "2027-03-29T12:00",
     ["03-27 01:30", "03-28 01:00", "03-29 00:30"]),
    # Berlin, 31 October 2027: 03:00 CEST is 02:00 CET; of the two 02:30 it is the first.
    ("30 2 * * *", "Europe/Berlin", "2027-10-29T12:00", "2027-11-01T12:00",
     ["10-30 00:30", "10-31 00:30", "11-01 01:30"]),
    # New York, 14 March 2027: the gap is from 02:00 to 03:00, so that 01:30 is there as ever.
    ("30 1 * * *", "America/New_York", "2027-03-12T12:00", "2027-03-15T12:00",
     ["03-13 06:30", "03-14 06:30", "03-15 05:30"]),
    # New York, 7 November 2027: 02:00 EDT is 01:00 EST; of the two 01:30 it is the first.
    ("30 1 * * *", "America/New_York", "2027-11-05T12:00", "2027-11-08T12:00",
     ["11-06 05:30", "11-07 05:30", "11-08 06:30"]),
    ("*/15 * * * *", "Europe/Berlin", "2027-03-28T00:40", "2027-03-28T01:20",
     ["03-28 00:45", "03-28 01:00", "03-28 01:15"]),
    ("*/15 * * * *", "Europe/Berlin", "2027-10-31T00:25", "2027-10-31T02:05",
     ["10-31 00:30", "10-31 00:45", "10-31 01:00", "10-31 01:15", "10-31 01:30", "10-31 01:45", "10-31 02:00"]),
    ("*/15 * * * *", "America/New_York", "2027-03-14T06:40", "2027-03-14T07:20",
     ["03-14 06:45", "03-14 07:00", "03-14 07:15"]),
    ("*/15 * * * *", "America/New_York", "2027-11-07T05:25", "2027-11-07T07:05",
     ["11-07 05:30", "11-07 05:45", "11-07 06:00", "11-07 06:15", "11-07 06:30", "11-07 06:45", "11-07 07:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "timezone", "first", "last", "expected"), NIGHTS)
def test_the_nights_of_2027_on_which_clocks_change(
    expression: str, timezone: str, first: str, last: str, expected: list[str]
) -> None:
    assert between(cron(expression, timezone), first, last) == expected


@pytest.mark.parametrize(("expression", "timezone", "first", "last", "_expected"), NIGHTS)
def test_the_answer_is_the_same_from_every_moment_in_between(
    expression: str, timezone: str, first: str, last: str, _expected: list[str]
) -> None:
    """Also from within the second of two equal hours, and never a time that has passed."""
    when = cron(expression, timezone)
    all_of_them = [utc(first), *map(utc, (f"2027-{text.replace(' ', 'T')}" for text in between(when, first, last)))]
    for before, due in pairwise(all_of_them):
        moment = before
        while moment < due:
            assert when.after(moment) == due
            moment += timedelta(seconds=219.5)


def test_an_interval_counts_from_its_beginning() -> None:
    when = every("10s")
    assert when.after(START) == START + timedelta(seconds=10)
    assert when.after(START + timedelta(seconds=19.999)) == START + timedelta(seconds=20)
    assert when.after(START + timedelta(days=100, seconds=20)) == START + timedelta(days=100, seconds=30)


def test_the_newest_of_an_outage_come_in_order() -> None:
    when, first = every("10s"), START + timedelta(seconds=10)
    three = [START + timedelta(seconds=seconds) for seconds in (10, 20, 30)]
    assert when.newest(first, START + timedelta(seconds=35), most=1_000) == three
    assert when.newest(first, START + timedelta(seconds=35), most=2) == three[1:]
    assert when.newest(first, START + timedelta(seconds=5), most=2) == []


@pytest.mark.parametrize(
    ("expression", "days"), [("* * * * *", 10), ("7,8 3 * * *", 900), ("0 0 1 * *", 900), ("30 2 * * 7", 900)]
)
def test_of_a_long_outage_only_the_newest_count(expression: str, days: int) -> None:
    when, until = cron(expression, "Europe/Berlin"), START + timedelta(days=days, seconds=30)
    each, due = [], when.after(START)
    while due is not None and due <= until:
        each.append(due)
        due = when.after(due)
    assert when.newest(each[0], until, most=100) == each[-100:]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ({"cron": "61 2 * * *"}, "cron '61 2 .*minute"),
        ({"cron": "0 24 * * *"}, "cron .*hour"),
        ({"cron": "0 2 * *"}, "cron .*five fields"),
        ({"cron": "@daily"}, "cron .*five fields"),
        ({"cron": "0 0 * * * *"}, "cron .*five fields"),
        ({"cron": "0 0 30 2 *"}, "cron .*never comes"),
        ({"cron": "0 0 * 2 MON#5,TUE#6"}, "cron .*day of week"),
        ({"cron": "0 2 * * *", "timezone": "Europe/Bonn"}, "timezone 'Europe/Bonn'"),
        ({"cron": "0 2 * * *", "timezone": "../UTC"}, "timezone"),
        ({"cron": "0 2 * * *", "timezone": ""}, "timezone"),
        ({"every": "4s"}, "every must be from 5s"),
        ({"every": "soon"}, "every 'soon' is not a span"),
        ({"every": "4000d"}, "every must be"),
        ({"every": "15m", "timezone": "UTC"}, "timezone goes with cron"),
        ({"cron": "0 2 * * *", "every": "15m"}, "either cron .* or every"),
        ({}, "either cron .* or every"),
    ],
)
def test_what_cannot_be_is_named(wanted: dict[str, str], part: str) -> None:
    with pytest.raises(SettingsInvalid, match=part):
        timing(**{"cron": None, "timezone": None, "every": None, **wanted}, anchor=START)
