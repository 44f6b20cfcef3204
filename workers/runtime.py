"""What a worker process has once: settings, database, notifier, loaded engines, open sources.

The parent and each of its children have their own; nothing of it survives a fork.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from jobs.db.database import Database
from jobs.db.queries import versions, workers
from jobs.db.queries.versions import VersionRecord
from jobs.settings import Settings
from jobs.sources import Source, check_listable, open_source
from model.cards import CARD, Card, verify
from model.engines import Engine, open_engine
from model.errors import ArtifactCorrupt, ModelError
from workers.backoff import Backoff
from workers.classification.commit import Storage
from workers.supervision.shared_memory import Shared

if TYPE_CHECKING:
    from model.store import Store

__all__ = ["BUNDLED", "Loaded", "Runtime"]

logger = logging.getLogger(__name__)
BUNDLED = Path(__file__).resolve().parent.parent / "model" / "bundled"
MAX_ENGINES = 2  # a running job never changes model: across a promotion two versions are in use
MAX_SOURCES = 8
BATCHES_PER_ENGINE = 4
COUNT_SECONDS = 2.0  # for so long the number of workers is taken as known


def _ships(version: VersionRecord) -> bool:
    card = BUNDLED / CARD
    return card.is_file() and hashlib.sha256(card.read_bytes()).hexdigest() == version.digest


class Loaded:
    """An engine with its card."""

    def __init__(self, engine: Engine, card: Card) -> None:
        self.engine = engine
        self.card = card


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
        self.child_memory: int | None = None  # bytes that classifying a batch may use; None: no limit
        self.engine_failed = False  # in this process, which should end
        self.shared = shared or Shared()
        self.slot = self.shared.slot(index)
        self.backoff = Backoff()
        self.scan_backoff = Backoff()
        self._engines: OrderedDict[str, Loaded] = OrderedDict()
        self._sources: OrderedDict[str, Source] = OrderedDict()
        self._lock = Lock()
        self._versions: dict[int, VersionRecord] = {}
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

    def load(self, version: VersionRecord) -> Loaded:
        """Return the engine of a registered version (a row of `model_versions`), loaded at the first call.

        Raises the errors of `model.errors` when its files are missing, changed or unusable here.
        """
        with self._lock:
            if version.name not in self._engines:
                while len(self._engines) >= MAX_ENGINES:
                    _, old = self._engines.popitem(last=False)
                    old.engine.unload()
                folder, card = self.artifact(version)
                self._engines[version.name] = Loaded(open_engine(self.settings.engine, self.device, folder, card), card)
            self._engines.move_to_end(version.name)
            return self._engines[version.name]

    def has_loaded(self, version: VersionRecord) -> bool:
        """Return whether `load` would return at once."""
        return version.name in self._engines

    def unload(self, name: str) -> None:
        """Forget the engine of a version: the next `load` makes a new one."""
        with self._lock:
            loaded = self._engines.pop(name, None)
        if loaded is not None:
            with suppress(Exception):  # it failed a moment ago
                loaded.engine.unload()

    def artifact(self, version: VersionRecord) -> tuple[Path, Card]:
        """Return the verified folder of a registered version, fetched if need be, and its card."""
        if version.location != "bundled":
            folder = self.store.fetch(version.name, version.digest)
        elif _ships(version):
            folder = BUNDLED
            self._keep_bundled(version.name)
        else:
            try:
                folder = self.store.fetch(version.name, version.digest)
            except ArtifactCorrupt as exc:
                raise ArtifactCorrupt(
                    f"version {version.name} was bundled with another release and never used with this store; submit "
                    "with a version that `cars models` lists, or promote the one bundled now"
                ) from exc
        return folder, verify(folder)

    def _keep_bundled(self, name: str) -> None:
        """Copy the bundled version into the store, where it outlives the release: a running job keeps using it."""
        try:
            if self.store.digest(name) is None:
                self.store.put(BUNDLED, name)
        except ModelError as exc:
            logger.warning("the bundled version %s cannot be kept beyond this release: %s", name, exc)

    @property
    def store(self) -> Store:
        """Where published versions lie, with this machine's copies."""
        from model.store import Store

        return Store(self.settings.model_store, self.settings.home / "model-cache")

    @contextmanager
    def source(self, text: str) -> Iterator[Source]:
        """Yield the open source of a job. Raises SourceMissing or SourceNotAllowed.

        A remote one is kept open for the next batch. A folder is not: another may have its name by then, and an open
        one stays the old one.
        """
        if text.startswith("/"):
            with self._open(text) as source:
                yield source
            return
        with self._lock:
            if text not in self._sources:
                while len(self._sources) >= MAX_SOURCES:
                    self._sources.popitem(last=False)[1].close()
                self._sources[text] = self._open(text)
            self._sources.move_to_end(text)
            source = self._sources[text]
        yield source

    def _open(self, text: str) -> Source:
        return open_source(text, roots=self.settings.roots, max_file_bytes=self.settings.max_file_bytes)

    def check_source(self, text: str) -> None:
        """Raise SourceError unless the root of a source can be opened anew and listed."""
        check_listable(text, roots=self.settings.roots, max_file_bytes=self.settings.max_file_bytes)

    def forget_source(self, text: str) -> None:
        """Open it anew the next time."""
        with self._lock:
            source = self._sources.pop(text, None)
        if source is not None:
            source.close()

    def close(self) -> None:
        """Unload the engines and close the sources and the database."""
        for loaded in self._engines.values():
            loaded.engine.unload()
        for source in self._sources.values():
            source.close()
        self.database.close()
