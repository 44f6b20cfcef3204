"""What a batch changes in the database: predictions, images, the job's counters and its window, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from jobs.db.database import Database
from jobs.db.queries import batches, images, jobs, predictions
from jobs.db.queries.classes import ClassIds
from workers.lease import LeaseLost

__all__ = ["Pruned", "Storage"]


class Pruned(Exception):
    """A prediction that was stored when its image was looked up is gone."""


class Storage:
    """Commits batches. A runtime has one; a test may replace it.

    `window` says how many batches a job may have in flight.
    """

    def __init__(self, database: Database, *, window: Callable[[Connection], int]) -> None:
        self._database = database
        self._window = window
        self._class_ids = ClassIds()

    def commit(
        self,
        claim: batches.Claim,
        *,
        version_id: int,
        outcomes: Sequence[images.Outcome],
        rows: Sequence[predictions.Prediction],
        engine_seconds: float = 0.0,
    ) -> list[int]:
        """Write everything about a batch; return the batches that entered the window. Raises LeaseLost or Pruned.

        `rows`: the predictions of what was inferred; all other contents without an error were predicted before.
        """
        facts = {row.content_hash: row.fact for row in rows}
        new = facts.keys()
        failed = sum(outcome.error is not None for outcome in outcomes)
        reused = {o.content_hash for o in outcomes if o.error is None and o.content_hash is not None} - new
        cached = sum(o.error is None and o.content_hash in reused for o in outcomes)
        ok = len(outcomes) - failed
        counts = jobs.Counts(ok=ok, failed=failed, cached=cached, engine_seconds=engine_seconds)
        with self._database.write() as connection:
            stored_by_others = predictions.store(connection, version_id, rows) < len(rows)
            wanted = reused | new if stored_by_others else reused
            protected = predictions.protect(connection, version_id, wanted)
            if len(protected) < len(wanted):
                raise Pruned
            if not (jobs.count_up(connection, claim.job_id, counts) and batches.close(connection, claim)):
                raise LeaseLost
            facts |= protected
            images.settle(
                connection, claim.job_id, outcomes, version_id=version_id, facts=facts, class_ids=self._class_ids
            )
            return batches.dispatch(connection, claim.job_id, window=self._window(connection))
