"""Where jobs live in a test, and tests that need only one of the two."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

__all__ = ["Backend", "embedded", "server"]

embedded = pytest.mark.parametrize("backend", ["embedded"], indirect=True)
server = pytest.mark.parametrize("backend", ["server"], indirect=True)


@dataclass(frozen=True)
class Backend:
    """Where jobs live in a test: `embedded` (SQLite, in-process broker) or `server` (PostgreSQL, Redis), migrated."""

    name: str
    env: dict[str, str]

    @property
    def database_url(self) -> str:
        """As in CARS_DATABASE_URL."""
        return self.env["CARS_DATABASE_URL"]

    @property
    def broker_url(self) -> str:
        """As in CARS_BROKER_URL."""
        return self.env["CARS_BROKER_URL"]
