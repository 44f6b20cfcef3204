"""Records that users rely on: frozen, and each with the JSON object that the command line prints for it.

One module per subject; the names of all are here.
"""

from jobs.records.base import Json, Record, Selected, iso
from jobs.records.corrections import Correction, ImportedCorrections
from jobs.records.doctor import CheckResult
from jobs.records.job import JobStatus, SkippedSuffix
from jobs.records.listings import Listing, ListingDetails, SharedContent
from jobs.records.model_registry import ModelVersion, Promotion
from jobs.records.results import FailedImage, Result, TopLabel, top_labels
from jobs.records.retag import Difference, Retagging, TagSaid
from jobs.records.schedules import Fire, Schedule, ScheduleDetail
from jobs.records.training_run import RunOptions, RunProgress, TrainingStatus
from jobs.records.workers import WorkerStatus
from jobs.states import ImageFailure

__all__ = [
    "CheckResult",
    "Correction",
    "Difference",
    "FailedImage",
    "Fire",
    "ImageFailure",
    "ImportedCorrections",
    "JobStatus",
    "Json",
    "Listing",
    "ListingDetails",
    "ModelVersion",
    "Promotion",
    "Record",
    "Result",
    "Retagging",
    "RunOptions",
    "RunProgress",
    "Schedule",
    "ScheduleDetail",
    "Selected",
    "SharedContent",
    "SkippedSuffix",
    "TagSaid",
    "TopLabel",
    "TrainingStatus",
    "WorkerStatus",
    "iso",
    "top_labels",
]
