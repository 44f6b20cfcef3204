"""Every error that a user of the client can meet.

    CarClassifierError
    ├── SettingsInvalid            a CARS_* variable or an argument is not usable
    ├── ClientClosed               the client was used after close()
    ├── DatabaseError
    │   ├── DatabaseUnavailable    no connection
    │   ├── SchemaMissing          `cars migrate` has not run
    │   ├── SchemaTooNew           the database was migrated by a newer release
    │   └── ForeignDatabase        the database belongs to another program
    ├── OutputError                a file or a folder of the user's cannot be written
    ├── SourceError
    │   ├── SourceMissing          no such folder
    │   ├── SourceNotAllowed       outside CARS_SOURCE_ROOTS, or a protocol that is not listed
    │   └── SourceEmpty            a folder without images
    ├── NotFound
    │   ├── JobNotFound
    │   ├── ImageNotFound
    │   ├── LabelNotFound
    │   ├── ListingNotFound
    │   ├── RunNotFound
    │   ├── ScheduleNotFound
    │   └── VersionNotFound
    ├── KeyInUse                   the key is that of a job which is another request
    ├── NotPossible                the job or version is in a state that does not allow it
    ├── PreviewUnavailable         no image can be decoded here
    ├── NoWorkerAlive              nothing would ever do the work
    ├── WorkerFailed               a local worker could not be started or went away
    └── WaitTimeout                the job did not end in time

`ImageUnavailable` is not among them: it never leaves a worker, it becomes the error of one image's row.
"""

from collections.abc import Sequence

from jobs.states import ImageErrorCode, ImageFailure

__all__ = [
    "CarClassifierError",
    "ClientClosed",
    "DatabaseError",
    "DatabaseUnavailable",
    "ForeignDatabase",
    "ImageNotFound",
    "ImageUnavailable",
    "JobNotFound",
    "KeyInUse",
    "LabelNotFound",
    "ListingNotFound",
    "NoWorkerAlive",
    "NotFound",
    "NotPossible",
    "OutputError",
    "PreviewUnavailable",
    "RunNotFound",
    "ScheduleNotFound",
    "SchemaMissing",
    "SchemaTooNew",
    "SettingsInvalid",
    "SourceEmpty",
    "SourceError",
    "SourceMissing",
    "SourceNotAllowed",
    "VersionNotFound",
    "WaitTimeout",
    "WorkerFailed",
]


class CarClassifierError(Exception):
    """The root: catch this to catch everything the client raises on purpose."""


class SettingsInvalid(CarClassifierError):
    """A setting or an argument cannot be used; the text names it and what it may be."""


class ClientClosed(CarClassifierError):
    """The client was used after `close()`; make a new one."""


class DatabaseError(CarClassifierError):
    """The database cannot serve."""


class DatabaseUnavailable(DatabaseError):
    """No connection to the database."""


class SchemaMissing(DatabaseError):
    """The database has no tables yet, or old ones: run `cars migrate`."""


class SchemaTooNew(DatabaseError):
    """A newer release has migrated the database: update this one."""


class ForeignDatabase(DatabaseError):
    """The database holds tables of another program; nothing was changed."""


class OutputError(CarClassifierError):
    """A file cannot be written; the text names its folder and what is wrong with it."""


class SourceError(CarClassifierError):
    """The source cannot be used."""


class SourceMissing(SourceError):
    """There is no such folder, or it cannot be listed."""


class SourceNotAllowed(SourceError):
    """The source lies outside the roots that workers may read."""


class SourceEmpty(SourceError):
    """The source has no images."""


class NotFound(CarClassifierError):
    """No such thing in the database."""


class JobNotFound(NotFound):
    """No job has this id."""


class ImageNotFound(NotFound):
    """No such image in the job, or its bytes are not stored."""


class LabelNotFound(NotFound):
    """No model version and no stored prediction has this label, make, model of car or body."""


class ListingNotFound(NotFound):
    """The job has no listing of this name, or no verdict on it yet."""


class RunNotFound(NotFound):
    """No training run has this id."""


class ScheduleNotFound(NotFound):
    """No schedule has this name."""


class VersionNotFound(NotFound):
    """No model version has this name."""


class KeyInUse(CarClassifierError):
    """The key belongs to `job` (its id), which is another request: `differences` says in what."""

    def __init__(self, key: str, job: str, differences: Sequence[str]) -> None:
        self.job = job
        self.differences = ", ".join(differences)
        super().__init__(
            f"the key {key!r} belongs to job {job}, which is another request: {self.differences}; take another key, or "
            "that job: --reuse on the command line, reuse=True in Python"
        )


class NotPossible(CarClassifierError):
    """The thing is in a state that does not allow what was asked."""


class PreviewUnavailable(CarClassifierError):
    """No image can be decoded or classified on this machine; the text says why."""


class NoWorkerAlive(CarClassifierError):
    """No worker is alive to do the work."""


class WorkerFailed(CarClassifierError):
    """A local worker could not be started, or went away before the job was done."""


class WaitTimeout(CarClassifierError):
    """The job was not done in the time given; it continues."""


class ImageUnavailable(Exception):
    """One image cannot be read: `code` and `message` are those of its row."""

    def __init__(self, code: ImageErrorCode, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    @property
    def failure(self) -> ImageFailure:
        """What its row gets."""
        return ImageFailure(self.code, self.message)
