"""Registering a published model version, its files into the store and its card into the database; and the way back."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sqlalchemy import Connection

from jobs.db.database import Database
from jobs.db.queries import versions
from jobs.disk import trouble
from jobs.errors import NotPossible, OutputError
from jobs.settings import Settings
from jobs.states import VersionState
from model.cards import CARD, Card, digest, read_verified
from model.store import Store

__all__ = ["export", "register"]


def register(settings: Settings, database: Database, folder: Path, card: Card) -> bool:
    """Put a verified version into the store, then into the registry; False when the same one is registered already.

    Files that the store has lost since are restored then, unless the version comes with the program.

    Raises NotPossible or ArtifactExists when another version has its name.
    """
    found = digest(folder)
    with database.read() as connection:
        if _is_registered(connection, card.name, found, location="bundled"):
            return False
    Store(settings.model_store, settings.home / "model-cache").put(folder, card.name)
    with database.write() as connection:
        versions.lock(connection)
        if _is_registered(connection, card.name, found):  # by another process, meanwhile
            return False
        document = card.model_dump(mode="json")
        versions.register(
            connection, name=card.name, card=document, digest=found, location="store", state=VersionState.AVAILABLE
        )
    return True


def export(stored: Path, card: Card, folder: Path) -> None:
    """Copy a version's files, verified, to a folder that is new or empty; there whole or not at all.

    Raises OutputError where that cannot be written, and the errors of `cards.verify`.
    """
    above = folder.absolute().parent
    try:
        with tempfile.TemporaryDirectory(prefix=f".{card.name}-", dir=above) as draft:
            copy = Path(draft) / card.name
            for file in card.files:
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                (copy / file).write_bytes(read_verified(stored, card, file))
            (copy / CARD).write_bytes((stored / CARD).read_bytes())
            copy.rename(folder)
    except OSError as exc:
        raise OutputError(f"{folder} cannot be written: {trouble(exc, above)}") from exc


def _is_registered(connection: Connection, name: str, digest: str, *, location: str | None = None) -> bool:
    """Return whether the version of this digest is registered (with its files at `location`). Raises NotPossible when
    another one has its name.
    """
    known = versions.by_name(connection, name)
    if known is not None and known.digest != digest:
        raise NotPossible(f"another version is registered as {name}: versions never change; give this one a new name")
    return known is not None and location in (None, known.location)
