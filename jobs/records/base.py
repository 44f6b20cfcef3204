"""What the records are made of, and how they become JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeAlias, overload

__all__ = ["Json", "Record", "Selected", "iso"]

Json: TypeAlias = dict[str, Any]
"""A JSON object, whose values are whatever JSON has."""


Selected: TypeAlias = Any
"""A record of `jobs.db.queries`, which lies above this module."""


class Record:
    """A frozen object with named fields."""

    __slots__: tuple[str, ...] = ()
    _json_names: ClassVar[Mapping[str, str]] = {}  # of fields whose name in JSON is another

    def to_dict(self) -> Json:
        """Return the record as a JSON object."""
        names = self._json_names
        return {names.get(name, name): _plain(getattr(self, name)) for name in self.__slots__}


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Record) else value


@overload
def iso(moment: datetime) -> str: ...
@overload
def iso(moment: None) -> None: ...
def iso(moment: datetime | None) -> str | None:
    """Return the time as ISO 8601 in UTC with a `Z`, or None for none."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
