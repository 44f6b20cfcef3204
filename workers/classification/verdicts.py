"""Verdicts on listings, given once nothing of a listing is pending and its job's source is listed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from jobs.db.queries import jobs, listings
from jobs.db.queries.listings import Content
from jobs.records import Json
from jobs.states import Decision, ImageStatus
from model import decision as model_decision
from model.cards import Card
from model.labels import Label, parse
from model.verdicts import ListingPart, Pooling, Verdict
from workers.runtime import Runtime

__all__ = ["give_verdicts", "sweep"]

TOGETHER = 500  # listings of a transaction
SWEEP_SECONDS = 6.0  # then another message continues, and other work gets its turn
TOP = 5
_DECISIONS: dict[str, model_decision.Decision] = {"model": "model", "make": "make", "unknown": "unknown"}
_CHUNK = 256  # contents decided at once


def give_verdicts(runtime: Runtime, job_id: int, *, first: int, last: int) -> None:
    """Give the verdicts that are due and possible on the listings of a batch, which has been committed.

    `first` and `last` are the batch's ordinals. Where the source is not listed to its end the verdicts come later.
    """
    with runtime.database.read() as connection:
        job = jobs.settling(connection, job_id)
        names = listings.touched(connection, job_id, first=first, last=last) if job is not None and job.ready else []
    for start in range(0, len(names), TOGETHER):
        with runtime.database.write() as connection:
            _settle(runtime, connection, job_id, names=names[start : start + TOGETHER])


def sweep(runtime: Runtime, job_id: int) -> bool:
    """Give all verdicts of a job that are due and possible, for some seconds; True when none is left for now."""
    deadline = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < deadline:
        with runtime.database.write() as connection:
            if not _settle(runtime, connection, job_id, names=None):
                return True
    return False


def _settle(runtime: Runtime, connection: Connection, job_id: int, *, names: Sequence[str] | None) -> int:
    """Give verdicts on listings that nobody else has locked, among `names` or all; return how many."""
    job = jobs.settling(connection, job_id)
    if job is None or not job.ready:
        return 0
    claimed = listings.claim(connection, job_id, names=names, limit=TOGETHER)
    if not claimed:
        return 0
    card = runtime.card(job.version_id)
    pooling = Pooling(card)
    found = listings.contents(connection, job_id, job.version_id, claimed)
    decided = [_Listing(name, card, pooling).settle(rows) for name, rows in groupby(found, key=lambda row: row.listing)]
    given = {one.name for one in decided}
    decided += [
        _Listing(name, card, pooling).settle(()) for name in claimed if name not in given
    ]  # its images are deleted
    shown = listings.paths(connection, job_id, {int(one.photo) for one in decided if one.photo is not None})
    listings.settle(
        connection,
        job_id,
        [
            one._replace(
                photo=None if one.photo is None else shown.get(int(one.photo)),
                complete=one.complete and job.scanned,
            )
            for one in decided
        ],
    )
    return len(claimed)


class _Listing:
    """One listing, whose images are looked at once, in their order."""

    def __init__(self, name: str, card: Card, pooling: Pooling) -> None:
        self._name = name
        self._card = card
        self._pooling = pooling
        self._images = self._failed = self._canceled = 0
        self._corrections: list[Content] = []

    def settle(self, rows: Iterable[Content]) -> listings.Verdict:
        """Return the verdict; its `photo` is still an ordinal, as text."""
        said = self._pooling.verdict(self._parts_of(rows))
        by_hand = self._by_hand()
        label = self._label(said) if by_hand is None else by_hand[0]
        decision = said.decision if by_hand is None else by_hand[1]
        shown_by = said.image if by_hand is None else by_hand[2]
        of_model = label if decision == Decision.MODEL else None
        make = said.make if decision == Decision.MAKE else of_model.make if of_model else None
        sure = 1.0 if decision == Decision.MODEL else 0.0
        return listings.Verdict(
            name=self._name,
            complete=not self._canceled,
            label=of_model.name if of_model else None,
            make=make,
            model=of_model.model if of_model else None,
            body=of_model.body if of_model else None,
            year=of_model.year if of_model else None,
            confidence=said.confidence if by_hand is None else sure,
            decision=decision,
            agreement=said.agreement,
            photos=self._images,
            used=said.used,
            failed=self._failed,
            conflict=said.conflict if by_hand is None else decision != Decision.MODEL,
            photo=None if shown_by is None else str(shown_by),
            source="model" if by_hand is None else "human",
            top=self._top(said.probabilities),
        )

    def _parts_of(self, rows: Iterable[Content]) -> Iterator[ListingPart]:
        """Count the images and yield the predictions of their contents, each content once."""
        contents = self._contents(rows)
        while chunk := list(islice(contents, _CHUNK)):
            stored = b"".join(row.probabilities or b"" for row in chunk)
            probabilities = np.frombuffer(stored, dtype="<f2").reshape(len(chunk), -1)
            decisions = [_DECISIONS[row.decision or ""] for row in chunk]
            yield ListingPart([row.ordinal for row in chunk], probabilities, decisions)

    def _contents(self, rows: Iterable[Content]) -> Iterator[Content]:
        seen: set[bytes] = set()
        for row in rows:
            self._images += 1
            self._failed += row.status == ImageStatus.FAILED
            self._canceled += row.status == ImageStatus.CANCELED
            if row.content_hash is None or row.content_hash in seen:
                continue
            seen.add(row.content_hash)
            if row.correction is not None:
                self._corrections.append(row)
            if row.probabilities is not None:
                yield row

    def _by_hand(self) -> tuple[Label | None, str, int] | None:
        """Return the label, the decision and the ordinal that corrections give, or None where there are none.

        The newest one counts, unless they name several makes: then nobody knows.
        """
        if not self._corrections:
            return None
        newest = max(self._corrections, key=lambda row: (row.corrected_at, row.ordinal))
        labels = [self._parts(row.correction or "") for row in self._corrections]
        if len({label.make for label in labels}) > 1:
            return None, Decision.UNKNOWN.value, newest.ordinal
        return self._parts(newest.correction or ""), Decision.MODEL.value, newest.ordinal

    def _parts(self, name: str) -> Label:
        parts = self._card.class_parts.get(name)
        return parse(name) if parts is None else parts.label

    def _label(self, said: Verdict) -> Label | None:
        return None if said.top is None else self._card.labels[said.top]

    def _top(self, probabilities: NDArray[np.float32] | None) -> list[Json]:
        if probabilities is None:
            return []
        best = np.argsort(-probabilities, kind="stable")[:TOP]
        return [{"label": self._card.classes[at], "confidence": float(probabilities[at])} for at in best.tolist()]
