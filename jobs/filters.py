"""What users ask results for, checked and made ready for the database."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

from jobs.db.database import Database
from jobs.db.queries.results import Filter
from jobs.durations import moment_or_age
from jobs.errors import SettingsInvalid
from jobs.names import Vocabulary
from jobs.states import Decision, ImageStatus, ResultOrder

__all__ = ["checked_order", "make_filter", "moment", "not_in_future", "one_of"]

MAX_YEAR = 9_999
_NAMES = ("label", "make", "model", "body", "version")


def make_filter(database: Database, job_id: int | None, /, **given: Any) -> Filter:
    """Return a filter from a user's arguments, names in any case.

    Raises SettingsInvalid for one that cannot be used, LabelNotFound or VersionNotFound for a name that no registered
    version and no stored prediction has.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := given.keys() - (Filter.__dataclass_fields__.keys() - {"job_id"}):
        raise SettingsInvalid(f"no such filter: {', '.join(sorted(unknown))}")
    for name, allowed in (("decision", Decision), ("status", ImageStatus)):
        if name in given:
            given[name] = one_of(allowed, given[name], name=name)
    for name in ("min_confidence", "max_confidence"):
        if name in given and not 0 <= given[name] <= 1:
            raise SettingsInvalid(f"{name} must lie between 0 and 1, not {given[name]!r}")
    if "year" in given and not 0 <= given["year"] <= MAX_YEAR:
        raise SettingsInvalid(f"year must be one such as 2012, not {given['year']!r}")
    for name in ("since", "until"):
        if name in given:
            given[name] = moment(given[name])
    if "since" in given:
        not_in_future("since", given["since"])
    return Filter(job_id=job_id, **given | _spellings(database, given))


def _spellings(database: Database, given: dict[str, Any]) -> dict[str, Any]:  # a user's arguments, of many types
    """Return the names that were given, as they are registered and stored."""
    named = {name: given[name] for name in _NAMES if name in given}
    for name, text in named.items():
        if not isinstance(text, str):
            raise SettingsInvalid(f"{name} must be text, not {text!r}")
    if not named:
        return {}
    with database.read() as connection:
        vocabulary = Vocabulary(connection)
        found = {name: _spelled(vocabulary, name, text) for name, text in named.items()}
    return found | ({"body": found["body"][0]} if "body" in found else {})


def _spelled(vocabulary: Vocabulary, name: Any, text: str) -> tuple[str, ...]:
    """Return the spellings of a name: where predictions have it, theirs, for which no card is read."""
    stored = vocabulary.stored(name, text) if name != "version" else ()
    return stored or getattr(vocabulary, name)(text)


def checked_order(order: str | None) -> ResultOrder | None:
    """Return what to sort by. Raises SettingsInvalid."""
    return None if order is None else ResultOrder(one_of(ResultOrder, order, name="sort"))


def one_of(allowed: Any, value: Any, *, name: str) -> str:
    """Return the one of the allowed words that a value is, in any case. Raises SettingsInvalid."""
    text = str(value).lower()
    if text not in list(allowed):
        raise SettingsInvalid(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return text


def not_in_future(name: str, when: datetime) -> datetime:
    """Return a time that is past. Raises SettingsInvalid: asking for what comes is a slip of the pen."""
    if when > datetime.now(UTC):
        day = datetime.now(UTC).date()
        raise SettingsInvalid(f"{name} must not lie in the future, as {when.isoformat()} does: {day}, say, or 7d")
    return when


def moment(value: str | date | datetime) -> datetime:
    """Return a point in time from a text (ISO 8601, `today`, `yesterday`, an age such as `2d`), a date (its first
    moment) or a datetime; without an offset it is UTC. Raises SettingsInvalid.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(moment_or_age(value))
        except ValueError as exc:
            raise SettingsInvalid(str(exc)) from exc
    elif not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value if value.tzinfo else value.replace(tzinfo=UTC)
