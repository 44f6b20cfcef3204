"""What every operation takes: the settings, the database, and a way to notify workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from jobs.db import migrate
from jobs.db.database import Database
from jobs.errors import ClientClosed
from jobs.queues import FINISH_JOB, SCAN_JOB, TRAIN_MODEL
from jobs.settings import Settings
from jobs.wake import wake

if TYPE_CHECKING:
    from jobs.notifier import Notifier

__all__ = ["Backend"]


class Backend:
    """Settings, database and notifier, until it is closed. Raises DatabaseUnavailable."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._database: Database | None = Database(settings.database)
        self._notifier: Notifier | None = None
        self._prepared = False

    @property
    def database(self) -> Database:
        """The database, migrated if it is the embedded one, else checked (once per backend).

        Raises ClientClosed, DatabaseUnavailable, SchemaMissing, SchemaTooNew or ForeignDatabase.
        """
        database = self.unprepared_database
        if not self._prepared:
            migrate.prepare(database)
            self._prepared = True
        return database

    @property
    def unprepared_database(self) -> Database:
        """The database with whatever schema it has. Raises ClientClosed."""
        if self._database is None:
            raise ClientClosed("this client is closed; make a new one")
        return self._database

    def notify(self, work: Literal["scan", "train", "verdicts"], number: int) -> None:
        """Tell workers, after the commit, that there is a job to scan, a run to train, or a job with verdicts that are
        due; losing it loses nothing.
        """
        if self.settings.embedded:
            wake(self.settings.home)
            return
        from jobs.notifier import Notifier  # Celery is slow to load, and most commands send nothing

        if self._notifier is None:
            self._notifier = Notifier(self.settings)
        self._notifier.notify({"scan": SCAN_JOB, "train": TRAIN_MODEL, "verdicts": FINISH_JOB}[work], number)

    def close(self) -> None:
        """Close all connections; the backend cannot be used any more."""
        if self._database is not None:
            self._database.close()
        if self._notifier is not None:
            self._notifier.close()
        self._database = self._notifier = None
