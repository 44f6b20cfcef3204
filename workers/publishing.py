"""Registering a published model version: its files into the store, its card into the database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

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

    Raises NotPossible or ArtifactExists when another version has its name.
    """
    mark = digest(folder)
    with database.read() as connection:
        if _is_registered(connection, card.name, mark):
            return False
    Store(settings.model_store, settings.home / "model-cache").put(folder, card.name)
    with database.write() as connection:
        versions.lock(connection)
        if _is_registered(connection, card.name, mark):  # by another process, meanwhile
            return False
        document = card.model_dump(mode="json")
        versions.add(connection, name=card.name, card=document, digest=mark, location="store", state=state)
    return True


def _is_registered(connection: Connection, name: str, mark: str) -> bool:
    """Whether the version of this digest is registered. Raises NotPossible when another one has its name."""
    known = versions.by_name(connection, name)
    if known is not None and known.digest != mark:
        raise NotPossible(f"another version is registered as {name}: versions never change; give this one a new name")
    return known is not None
