"""Classifying a batch: claim, read, infer, and write everything down in one transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from jobs.db.queries import batches, images, jobs, predictions
from jobs.db.queries.versions import VersionRecord
from jobs.errors import CarClassifierError, DatabaseUnavailable, SourceError
from jobs.queues import CLASSIFY_BATCH
from jobs.sources import Source
from jobs.states import ImageErrorCode, ImageFailure
from model import pipeline
from model.cards import Card
from model.errors import ModelError
from workers import events, logs
from workers.classification.commit import Pruned
from workers.classification.faults import Broken, Fault, ImageAtFault, VersionUnusable, diagnose
from workers.classification.finish import finish_job
from workers.classification.probabilities import predict
from workers.classification.verdicts import give_verdicts
from workers.engine_cache import LoadedEngine
from workers.lease import Lease, LeaseLost
from workers.runtime import Runtime
from workers.supervision import memory

__all__ = ["classify_batch"]

logger = logging.getLogger(__name__)
COMMIT_PAUSE_SECONDS = 1.0
UNSURE = (ImageErrorCode.VANISHED, ImageErrorCode.UNREADABLE)  # of an image, or of its whole source
LOOKUP = 128  # images per question to the database
REMOTE_READERS = 16


def classify_batch(runtime: Runtime) -> bool:
    """Claim the batch that is next in turn and classify it; False when there is none, or the worker is broken.

    A batch that cannot be done is released, and no attempt is counted: it waits for what may pass, goes to another
    worker if this one is broken, or is split in halves if one of its images makes the engine fail.
    """
    if runtime.shared.broken is not None:
        return False
    blocked = runtime.backoff.blocked()
    with runtime.database.write(durable=False) as connection:
        claim = batches.claim(
            connection, owner=runtime.owner, seconds=runtime.settings.lease_seconds, except_jobs=blocked
        )
        if claim is None:
            return False
        logs.bind(job=claim.job_id, batch=claim.id)
        job = jobs.work(connection, claim.job_id)
        pending = images.pending(connection, claim)
    try:
        with runtime.slot.work(), memory.limited(runtime.child_memory):
            _work(runtime, claim, job, pending)
        runtime.backoff.worked(claim.job_id)
    except LeaseLost:
        events.publish(events.LeaseLost(batch=claim.id))
    except DatabaseUnavailable:
        raise  # the lease expires
    except Pruned:
        logger.info("batch %d is done again: a prediction that it reused was pruned meanwhile", claim.id)
        _release(runtime, claim)
    except Fault as fault:
        _respond_to(runtime, claim, fault)
    return True


def _release(runtime: Runtime, claim: batches.Claim, waiting: str | None = None) -> None:
    with runtime.database.write() as connection:
        batches.release(connection, claim, waiting=waiting)


def _respond_to(runtime: Runtime, claim: batches.Claim, fault: Fault) -> None:
    """Do with a batch what its fault asks for."""
    match fault:
        case ImageAtFault():
            logger.warning("batch %d of job %d is narrowed to the image at fault: %s", claim.id, claim.job_id, fault)
            _narrow(runtime, claim, f"the engine fails on this image: {fault}")
        case Broken():
            runtime.shared.broken = str(fault)
            runtime.engine_failed = True
            logger.error("batch %d of job %d is released: this worker is broken: %s", claim.id, claim.job_id, fault)
            _release(runtime, claim, str(fault))
        case _:
            seconds = runtime.backoff.failed(claim.job_id)
            logger.warning("job %d waits; tried again in %.1f s: %s", claim.job_id, seconds, fault)
            _release(runtime, claim, str(fault))


def _narrow(runtime: Runtime, claim: batches.Claim, error: str) -> None:
    with runtime.database.write() as connection:
        narrowed = batches.narrow(connection, claim, error=error)
        running = narrowed and jobs.lock_running(connection, claim.job_id)
        sent = batches.dispatch(connection, claim.job_id, window=runtime.window(connection)) if running else []
    for batch_id in sent:
        runtime.notify(CLASSIFY_BATCH, claim.job_id, batch_id)
    if not sent:
        finish_job(runtime, claim.job_id)


def _work(runtime: Runtime, claim: batches.Claim, job: jobs.Work | None, pending: Sequence[tuple[int, str]]) -> None:
    """Classify and commit; raises LeaseLost, DatabaseUnavailable, Pruned or a Fault."""
    if job is None:
        raise LeaseLost
    version = runtime.version(job.version_id)

    def renew() -> bool:
        with runtime.database.write(durable=False) as connection:
            return batches.renew(connection, claim, seconds=runtime.settings.lease_seconds)

    start = time.monotonic()
    with Lease(renew, seconds=runtime.settings.lease_seconds, stall_seconds=runtime.settings.stall_seconds) as lease:
        try:
            card = _load(runtime, claim, version).card
            lease.progress()
            outcomes, took = _infer(runtime, job, version, pending, lease)
            lease.check()
            sent = _commit(
                runtime, claim, version_id=version.id, outcomes=outcomes, engine_seconds=took, card=card, lease=lease
            )
        except (LeaseLost, DatabaseUnavailable, Pruned):
            raise
        except Exception as exc:
            if not isinstance(exc, CarClassifierError | ModelError | VersionUnusable):
                logger.exception("batch %d of job %d failed", claim.id, claim.job_id)
            lease.progress()
            raise diagnose(runtime, version, exc) from exc
    seconds = time.monotonic() - start
    runtime.slot.count(len(outcomes))
    events.publish(events.BatchCommitted(job=claim.job_id, batch=claim.id, images=len(outcomes), seconds=seconds))
    for batch_id in sent:
        runtime.notify(CLASSIFY_BATCH, claim.job_id, batch_id)
    give_verdicts(runtime, claim.job_id, first=claim.first, last=claim.last)
    if not sent:
        finish_job(runtime, claim.job_id)


def _load(runtime: Runtime, claim: batches.Claim, version: VersionRecord) -> LoadedEngine:
    """Return the engine of the job's version. While it is loaded, the batch says so: a process that crashes then has
    not looked at an image yet. Raises VersionUnusable.
    """
    loading = not runtime.engines.has_loaded(version)
    if loading:
        with runtime.database.write(durable=False) as connection:
            batches.set_loading(connection, claim, True)
    try:
        with runtime.slot.load() if loading else nullcontext():
            loaded = runtime.engines.load(version)
    except Exception as exc:
        raise VersionUnusable(version.name) from exc
    if loading:
        with runtime.database.write(durable=False) as connection:
            batches.set_loading(connection, claim, False)
    return loaded


def _infer(
    runtime: Runtime, job: jobs.Work, version: VersionRecord, pending: Sequence[tuple[int, str]], lease: Lease
) -> tuple[list[pipeline.Outcome], float]:
    """Return what became of the images, and for how many seconds the engine worked on them."""

    def known(hashes: set[bytes]) -> set[bytes]:
        with runtime.database.read() as connection:
            return predictions.known(connection, version.id, hashes)

    outcomes: list[pipeline.Outcome] = []
    engine_seconds: list[float] = []
    try:
        with runtime.sources.open(job.source) as source:
            for outcome in pipeline.classify(
                (pipeline.Item(ordinal, path) for ordinal, path in pending),
                read=_reader(source),
                engine=runtime.engines.load(version).engine,
                known=known,
                limits=_limits(runtime, job.source),
                on_progress=lease.progress,
                on_inference=engine_seconds.append,
            ):
                outcomes.append(outcome)
                lease.check()
        if any(outcome.error and outcome.error[0] in UNSURE for outcome in outcomes):
            runtime.sources.check(job.source)
    except SourceError:
        runtime.sources.forget(job.source)
        raise
    return outcomes, sum(engine_seconds)


def _reader(source: Source) -> Callable[[str], bytes]:
    """Return what reads an image; what says nothing of the image (no descriptors left, say) is the source's error."""

    def read(path: str) -> bytes:
        try:
            return source.read(path)
        except OSError as exc:
            raise SourceError(f"images cannot be read at present: {exc.strerror or exc}") from exc

    return read


def _limits(runtime: Runtime, source: str) -> pipeline.Limits:
    """Return the bounds of a batch: many threads read a remote source, since each mostly waits for the network."""
    readers = REMOTE_READERS if "://" in source else 0
    return pipeline.Limits(max_pixels=runtime.settings.max_pixels, lookup=LOOKUP, read_threads=readers)


def _commit(
    runtime: Runtime,
    claim: batches.Claim,
    version_id: int,
    outcomes: Sequence[pipeline.Outcome],
    engine_seconds: float,
    card: Card,
    lease: Lease,
) -> list[int]:
    """Commit, over a restart of the database if need be, for as long as the lease is not known to be lost."""
    inferred = {o.content_hash: o.logits for o in outcomes if o.logits is not None and o.content_hash is not None}
    rows = predict(inferred, card)
    written = [images.Outcome(o.key, o.content_hash, _failure(o)) for o in outcomes]
    deadline = time.monotonic() + runtime.settings.lease_seconds
    while True:
        try:
            return runtime.storage.commit(
                claim, version_id=version_id, outcomes=written, rows=rows, engine_seconds=engine_seconds
            )
        except DatabaseUnavailable:
            if time.monotonic() > deadline:
                raise
            logger.warning("the database does not answer; batch %d is committed when it is back", claim.id)
            time.sleep(COMMIT_PAUSE_SECONDS)
            lease.progress()
            lease.check()


def _failure(outcome: pipeline.Outcome) -> ImageFailure | None:
    """Return why an image failed; the one place where a code of `model` becomes one of the database's."""
    if outcome.error is None:
        return None
    code, message = outcome.error
    return ImageFailure(ImageErrorCode(code), message)
