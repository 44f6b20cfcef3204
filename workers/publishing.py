"""Registering a published model version: its files into the store, its card into the database."""

from __future__ import annotations

from pathlib import Path

from jobs.database import Database
from jobs.errors import NotPossible
from jobs.queries import versions
from jobs.settings import Settings
from jobs.status import VersionState
from model.card import Card, digest
from model.store import Store

__all__ = ["register"]


def register(
    settings: Settings,
    database: Database,
    folder: Path,
    card: Card,
    *,
    state: VersionState = VersionState.AVAILABLE,
) -> bool:
    """Put a verified version into the store, then into the registry; False when the very same is registered already.

    Raises NotPossible when another version has its name.
    """
    mark = digest(folder)
    with database.read() as connection:
        known = versions.by_name(connection, card.name)
    if known is not None:
        if known.digest != mark:
            raise NotPossible(
                f"another version is registered as {card.name}: versions never change; give this one a new name"
            )
        return False
    Store(settings.model_store, settings.home / "model-cache").put(folder, card.name)
    with database.write() as connection:
        if versions.by_name(connection, card.name) is None:
            versions.add(
                connection,
                name=card.name,
                card=card.model_dump(mode="json"),
                digest=mark,
                location="store",
                state=state,
            )
    return True
