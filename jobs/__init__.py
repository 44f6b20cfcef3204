"""Submit folders of car photos for classification and read the results.

from jobs import Client

with Client() as client:
    job = client.submit("photos/")
    job.wait(progress=True)
    for result in job.results(make="BMW", min_confidence=0.8):
        print(result.path, result.label, result.confidence)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.client import Client
    from jobs.errors import CarClassifierError
    from jobs.job import Job
    from jobs.records import Result
    from jobs.results import Results
    from jobs.settings import Settings
    from jobs.training_run import TrainingRun

__all__ = ["CarClassifierError", "Client", "Job", "Result", "Results", "Settings", "TrainingRun"]

_MODULES = {
    "CarClassifierError": "jobs.errors",
    "Client": "jobs.client",
    "Job": "jobs.job",
    "Result": "jobs.records",
    "Results": "jobs.results",
    "Settings": "jobs.settings",
    "TrainingRun": "jobs.training_run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that a command that needs none of them starts faster."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
