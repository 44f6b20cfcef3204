"""What a worker process has once: settings, database, notifier, artifacts, loaded engines, open sources.

The parent and each of its children have their own; nothing of it survives a fork.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from sqlalchemy import Connection

from jobs.db.database import Database
from jobs.db.queries import versions, workers
from jobs.db.queries.versions import VersionRecord
from jobs.settings import Settings
from model.cards import Card, parse_card
from workers.artifacts import Artifacts
from workers.backoff import Backoff
from workers.classification.commit import Storage
from workers.engine_cache import EngineCache
from workers.source_cache import SourceCache
from workers.supervision.shared_memory import Shared

__all__ = ["BATCHES_PER_ENGINE", "Runtime"]

BATCHES_PER_ENGINE = 4
COUNT_SECONDS = 2.0  # for so long the number of workers is taken as known


class Runtime:
    """One per process. `identity` names the parent; `owner` names this process in leases: the parent's id and the
    pid.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        identity: str,
        notify: Callable[..., bool],
        device: str | None = None,
        shared: Shared | None = None,
        index: int = 0,
    ) -> None:
        self.settings = settings
        self.identity = identity
        self.owner = f"{identity}:{os.getpid()}"
        self.device = device or settings.device
        self.database = Database(settings.database)
        self.notify = notify
        self.storage = Storage(self.database, window=self.window)
        self.artifacts = Artifacts(settings)
        self.engines = EngineCache(settings.engine, self.device, find=self.artifacts.find)
        self.sources = SourceCache(settings)
        self.child_memory: int | None = None  # bytes that classifying a batch may use; None: no limit
        self.engine_failed = False  # in this process, which should end
        self.shared = shared or Shared()
        self.slot = self.shared.slot(index)
        self.backoff = Backoff()
        self.scan_backoff = Backoff()
        self._versions: dict[int, VersionRecord] = {}
        self._cards: dict[int, Card] = {}
        self._engines_alive = 0
        self._counted_until = float("-inf")

    def version(self, version_id: int) -> VersionRecord:
        """Return the row of a model version; it never changes, and its card is large, so it is read once."""
        if version_id not in self._versions:
            with self.database.read() as connection:
                found = versions.by_id(connection, version_id)
            assert found is not None, "a job refers to its version, which is never deleted"
            self._versions[version_id] = found
        return self._versions[version_id]

    def card(self, version_id: int) -> Card:
        """Return the card of a registered version, without looking at its files."""
        if version_id not in self._cards:
            self._cards[version_id] = parse_card(json.dumps(dict(self.version(version_id).card)).encode())
        return self._cards[version_id]

    def production(self) -> VersionRecord | None:
        """Return the row of the version in production, or None."""
        with self.database.read() as connection:
            return versions.production(connection)

    def window(self, connection: Connection) -> int:
        """Return how many batches a job may have in flight: 4 per live engine, unless CARS_WINDOW says
        otherwise.
        """
        if self.settings.window:
            return self.settings.window
        if time.monotonic() >= self._counted_until:
            self._engines_alive = workers.classifiers(connection)
            self._counted_until = time.monotonic() + COUNT_SECONDS
        return BATCHES_PER_ENGINE * max(1, self._engines_alive)

    def close(self) -> None:
        """Unload the engines and close the sources and the database."""
        self.engines.close()
        self.sources.close()
        self.database.close()
