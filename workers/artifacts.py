"""The files of model versions: registering them, in the store and in the database, finding them again, and exporting
them.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from jobs.db.database import Database
from jobs.db.queries import versions
from jobs.db.queries.versions import VersionRecord
from jobs.disk import trouble
from jobs.errors import NotPossible, OutputError
from jobs.settings import Settings
from jobs.states import VersionState
from model.cards import CARD, Card, digest, read_verified, verify
from model.errors import ArtifactCorrupt, ModelError

if TYPE_CHECKING:
    from model.store import Store

__all__ = ["BUNDLED", "Artifacts", "export", "open_store", "register"]

logger = logging.getLogger(__name__)
BUNDLED = Path(__file__).resolve().parent.parent / "model" / "bundled"


def open_store(settings: Settings) -> Store:
    """Return where published versions lie, with this machine's copies. Raises StoreUnavailable for a URL that cannot
    be one.
    """
    from model.store import Store

    return Store(settings.model_store, settings.home / "model-cache")


class Artifacts:
    """Finds the files of registered versions: the bundled ones, in the store, or this machine's copies of those."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def store(self) -> Store:
        """Where published versions lie, with this machine's copies."""
        return open_store(self._settings)

    def find(self, version: VersionRecord) -> tuple[Path, Card]:
        """Return the verified folder of a registered version, fetched if need be, and its card.

        Raises the errors of `model.errors` when its files are missing or changed.
        """
        if version.location != "bundled":
            folder = self.store.fetch(version.name, version.digest)
        elif _is_bundled(version):
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


def register(settings: Settings, database: Database, folder: Path, card: Card) -> bool:
    """Put a verified version into the store, then into the registry; False when the same one is registered already.

    Files that the store has lost since are restored then, unless the version comes with the program.

    Raises NotPossible or ArtifactExists when another version has its name.
    """
    found = digest(folder)
    with database.read() as connection:
        if _is_registered(connection, card.name, found, location="bundled"):
            return False
    open_store(settings).put(folder, card.name)
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


def _is_bundled(version: VersionRecord) -> bool:
    """Return whether a version is the one that comes with this release."""
    card = BUNDLED / CARD
    return card.is_file() and hashlib.sha256(card.read_bytes()).hexdigest() == version.digest
