"""The engines that a process has loaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from jobs.db.queries.versions import VersionRecord
from model.cards import Card
from model.engines import Engine, open_engine

__all__ = ["EngineCache", "LoadedEngine"]

MAX_ENGINES = 2  # a running job never changes model: across a promotion two versions are in use


@dataclass(frozen=True)
class LoadedEngine:
    """An engine with its card."""

    engine: Engine
    card: Card


class EngineCache:
    """Engines by version, each loaded once; at most `MAX_ENGINES`, of which the one used least recently goes first.

    `engine` and `device` are as in the settings; `find` returns a version's verified folder and its card.
    """

    def __init__(self, engine: str, device: str, *, find: Callable[[VersionRecord], tuple[Path, Card]]) -> None:
        self._engine = engine
        self._device = device
        self._find = find
        self._loaded: OrderedDict[str, LoadedEngine] = OrderedDict()
        self._lock = Lock()

    def load(self, version: VersionRecord) -> LoadedEngine:
        """Return the engine of a registered version (a row of `model_versions`), loaded at the first call.

        Raises the errors of `model.errors` when its files are missing, changed or unusable here.
        """
        with self._lock:
            if version.name not in self._loaded:
                while len(self._loaded) >= MAX_ENGINES:
                    _, old = self._loaded.popitem(last=False)
                    old.engine.unload()
                folder, card = self._find(version)
                engine = open_engine(self._engine, self._device, folder, card)
                self._loaded[version.name] = LoadedEngine(engine, card)
            self._loaded.move_to_end(version.name)
            return self._loaded[version.name]

    def has_loaded(self, version: VersionRecord) -> bool:
        """Return whether `load` would return at once."""
        return version.name in self._loaded

    def unload(self, name: str) -> None:
        """Forget the engine of a version: the next `load` makes a new one."""
        with self._lock:
            loaded = self._loaded.pop(name, None)
        if loaded is not None:
            with suppress(Exception):  # it failed a moment ago
                loaded.engine.unload()

    def close(self) -> None:
        """Unload all engines."""
        for loaded in self._loaded.values():
            loaded.engine.unload()
