"""What an exception in a batch says: of the worker, of the job's source or version, or of an image.

Fault
├── MustWait      what may pass, or what another worker may be able to do: the batch is released
├── Broken        this worker cannot work: the batch is released and the worker takes no other
└── ImageAtFault  the engine is sound: one of the images makes it fail
"""

from __future__ import annotations

from jobs.db.queries.versions import VersionRecord
from jobs.errors import SourceError
from model.errors import ModelError
from workers.runtime import Runtime
from workers.self_check import describe, fault_of

__all__ = ["Broken", "Fault", "ImageAtFault", "MustWait", "VersionUnusable", "diagnose"]


class Fault(Exception):
    """Why a batch was not done; the text is for its job's row."""


class MustWait(Fault):
    """The job's source or version cannot be used here and now."""


class Broken(Fault):
    """The engine fails on the start-up image, too."""


class ImageAtFault(Fault):
    """The engine works, but not on this batch."""


class VersionUnusable(Exception):
    """A model version cannot be loaded here; the cause says why."""


def diagnose(runtime: Runtime, version: VersionRecord, error: Exception) -> Fault:
    """Return what `error`, raised in a batch of this model version, says. The engine is given its start-up image
    again.
    """
    if isinstance(error, SourceError):
        return MustWait(str(error))
    if isinstance(error, VersionUnusable):
        reason = describe(error.__cause__ or error)
    else:
        found = _fault_of(runtime, version)
        if found is None:
            return ImageAtFault(describe(error))
        reason = found
    runtime.engines.unload(version.name)
    production = runtime.production()
    if production is None or production.id == version.id:
        return Broken(reason)
    unsound = _fault_of(runtime, production)
    return MustWait(f"model version {version.name} cannot be used: {reason}") if unsound is None else Broken(unsound)


def _fault_of(runtime: Runtime, version: VersionRecord) -> str | None:
    try:
        return fault_of(runtime.engines.load(version).engine)
    except Exception as exc:
        return str(exc) if isinstance(exc, ModelError) else f"its engine cannot be loaded: {describe(exc)}"
