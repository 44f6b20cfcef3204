"""States of jobs, batches, images and model versions, and which change follows which."""

from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "BatchState",
    "Decision",
    "FireOutcome",
    "ImageErrorCode",
    "ImageFailure",
    "ImageStatus",
    "JobState",
    "NotificationState",
    "Priority",
    "ResultOrder",
    "RunState",
    "SummaryKey",
    "VersionState",
]


class JobState(StrEnum):
    """`queued → running → completed | completed_with_errors | canceled | failed`; retry leads back to running."""

    QUEUED = "queued"  # the row exists, no worker has looked at the source yet
    RUNNING = "running"  # the source is being listed or classified
    COMPLETED = "completed"  # every image has a prediction
    COMPLETED_WITH_ERRORS = "completed_with_errors"  # every image has a prediction or an error
    CANCELED = "canceled"  # it was stopped; finished results stay
    FAILED = "failed"  # the job as a whole could not be done; `error` says why

    @property
    def terminal(self) -> bool:
        """Whether it is an end, from which only retry leads on."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class BatchState(StrEnum):
    """`waiting → sent → leased → done`, and back to `waiting` (as batches of one image) when a lease is lost."""

    WAITING = "waiting"  # outside the window
    SENT = "sent"  # inside the window, its message is on the way
    LEASED = "leased"  # a worker works on it and renews the lease
    DONE = "done"  # its results are committed, or it was replaced or canceled


class ImageStatus(StrEnum):
    """`pending → ok | failed | canceled`; retry leads from failed and canceled back to pending."""

    PENDING = "pending"  # not looked at yet
    OK = "ok"  # has a prediction
    FAILED = "failed"  # has an error code and a message
    CANCELED = "canceled"  # the job was canceled first


class ImageErrorCode(StrEnum):
    """Why an image failed."""

    UNREADABLE = "unreadable"  # the file cannot be opened or read
    UNDECODABLE = "undecodable"  # not an image, or a damaged one
    TRUNCATED = "truncated"  # the file ends too early
    DAMAGED = "damaged"  # it decodes, but the decoder met bytes that make no sense
    TOO_LARGE = "too_large"  # more bytes or pixels than allowed
    UNSUPPORTED = "unsupported"  # not a regular file, or an image format that is not read
    OUTSIDE_SOURCE = "outside_source"  # a link that leaves the source
    VANISHED = "vanished"  # it was there when the folder was listed
    WORKER_CRASHED = "worker_crashed"  # the process that worked on it crashed three times
    ENGINE_ERROR = "engine_error"  # the engine raises on it, and works on other images


class ImageFailure(NamedTuple):
    """Why an image failed; both go into its row."""

    code: ImageErrorCode
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return it as a JSON object."""
        return {"code": self.code, "message": self.message}


class Decision(StrEnum):
    """How far a prediction is trusted."""

    MODEL = "model"  # the label can be trusted
    MAKE = "make"  # only the make can
    UNKNOWN = "unknown"  # neither


class RunState(StrEnum):
    """`queued → running → published | rejected | failed | canceled`; a run whose worker is lost is queued again."""

    QUEUED = "queued"  # the row exists, no worker has it
    RUNNING = "running"  # a worker trains, publishes or evaluates, and renews the lease
    PUBLISHED = "published"  # its version can be used; `promoted` says whether it went live
    REJECTED = "rejected"  # its version is not better than production; kept with its numbers
    FAILED = "failed"  # there is no version; `error` says why
    CANCELED = "canceled"  # it was stopped

    @property
    def terminal(self) -> bool:
        """Whether it is an end."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


class VersionState(StrEnum):
    """What a model version may be used for."""

    AVAILABLE = "available"  # can be promoted and asked for
    REJECTED = "rejected"  # a training candidate that was not better; kept with its numbers
    RETIRED = "retired"  # not for new jobs any more; jobs that have it keep it


class FireOutcome(StrEnum):
    """What came of one due time of a schedule."""

    FIRED = "fired"  # it has made a job
    SKIPPED = "skipped"  # it has made none, for the reason beside it


class NotificationState(StrEnum):
    """`pending → delivered | given_up`: how far it is that a job's URL is told of its end."""

    PENDING = "pending"  # not delivered yet; the next attempt has its time
    DELIVERED = "delivered"  # the server has answered that it has it
    GIVEN_UP = "given_up"  # no further attempt is made, for the reason beside it


class Priority(StrEnum):
    """Which jobs are served first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """The order in the database: a higher number is served first."""
        return {"low": 0, "normal": 1, "high": 2}[self.value]

    @classmethod
    def of(cls, rank: int) -> "Priority":
        """Return the priority of this rank."""
        return next(priority for priority in cls if priority.rank == rank)


class ResultOrder(StrEnum):
    """What results can be sorted by; the other way round with `reverse`."""

    CONFIDENCE = "confidence"  # the surest first
    PATH = "path"  # from A to Z
    TIME = "time"  # the newest first


class SummaryKey(StrEnum):
    """What finished images can be summed up by."""

    MAKE = "make"
    MODEL = "model"
    BODY = "body"
    YEAR = "year"
    DECISION = "decision"
    LISTING = "listing"
    DAY = "day"  # on which they were finished, in UTC
    VERSION = "version"  # the model version
    CODE = "code"  # why they failed
