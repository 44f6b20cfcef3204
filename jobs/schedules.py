"""Schedules: a source that is classified again and again, and the ledger of its due times."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy.exc import IntegrityError

from jobs import job, model_registry, notifications, records, sources
from jobs.db.queries import schedules
from jobs.due_times import Timing, timing
from jobs.errors import CarClassifierError, NotPossible, ScheduleNotFound, SettingsInvalid
from jobs.job import Job, Request
from jobs.redaction import redacted
from jobs.sources.files import Listed
from jobs.states import FireOutcome, Priority

if TYPE_CHECKING:
    import os

    from sqlalchemy import Connection

    from jobs.backend import Backend
    from jobs.db.queries.schedules import ScheduleRecord

__all__ = ["Schedules", "fire", "request_of"]

MOST_MISSED = 1_000  # rows of the ledger for one outage or pause, with the one that fires
MOST_KEPT = 10_000
MOST_DEPTH = 10
LEDGER = 50
_TIMES = ("cron", "timezone", "every")


def request_of(schedule: ScheduleRecord, *, accept_shrink: bool = False) -> Request:
    """Return what a due time asks for, as a submission does. Every option of a job that a schedule has is passed on
    here.
    """
    return Request(
        listed=Listed(schedule.source),
        name=schedule.name,
        model=schedule.model,
        top_k=schedule.top_k,
        priority=Priority.of(schedule.priority),
        key=None,
        listing_depth=None if schedule.manifest is not None else schedule.listing_depth,
        manifest=schedule.manifest,
        incremental=True,
        accept_shrink=accept_shrink,
        notify=schedule.notify,
        schedule_id=schedule.id,
    )


def fire(connection: Connection, schedule: ScheduleRecord) -> int | None:
    """Write the ledger of a schedule up to now, by the database's clock, and make the job of its newest due time.

    Returns the job's id; None where it is skipped, or nothing is due. The caller holds the schedule's lock; ledger, job
    and the next due time are of the same transaction.
    """
    moment = schedules.clock(connection)
    due = _due(schedule, moment)
    if not due:
        return None
    rows = [_missed(each) for each in due[:-1]]
    job_id, reason = _enqueue(connection, schedule)
    outcome = FireOutcome.SKIPPED if job_id is None else FireOutcome.FIRED
    schedules.record(connection, schedule.id, [*rows, schedules.Fire(due[-1], outcome, reason, job_id)])
    schedules.update_row(connection, schedule.id, {"next_at": _timing(schedule).after(moment)})
    return job_id


def _due(schedule: ScheduleRecord, moment: datetime) -> list[datetime]:
    """The due times without a row up to `moment`; of very many, the newest."""
    if schedule.next_at is None:
        return []
    return _timing(schedule).newest(schedule.next_at, moment, most=MOST_MISSED)


def _missed(due_at: datetime) -> schedules.Fire:
    return schedules.Fire(due_at, FireOutcome.SKIPPED, "missed")


def _enqueue(connection: Connection, schedule: ScheduleRecord) -> tuple[int | None, str | None]:
    """The id of a new job, or why there is none."""
    running = schedules.running_job(connection, schedule.id)
    if running is not None:
        return None, f"job {running} is still running"
    try:
        return job.enqueue(connection, request_of(schedule)), None
    except CarClassifierError as exc:  # such as a version that was retired
        return None, str(exc)


def _timing(schedule: ScheduleRecord) -> Timing:
    every = None if schedule.every is None else timedelta(seconds=schedule.every)
    return Timing(cron=schedule.cron, timezone=schedule.timezone, every=every, anchor=schedule.anchor)


class Schedules:
    """What `Client.schedules` offers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add(
        self,
        name: str,
        source: str | os.PathLike[str],
        *,
        cron: str | None = None,
        timezone: str | None = None,
        every: str | timedelta | None = None,
        replace: bool = False,
        keep: int | None = None,
        model: str | None = None,
        top_k: int = 5,
        priority: Literal["low", "normal", "high"] = "normal",
        listing_depth: int | None = None,
        manifest: str | None = None,
        notify: str | None = None,
    ) -> records.Schedule:
        """Let workers classify a folder (a path or an fsspec URL) whenever it is due, and return the schedule.

        `cron` has five fields and goes by `timezone` (UTC unless given); `every` is a span from 5 s, such as `15m`,
        that counts from now. Each run reads only what has changed since the one before. `keep`: after a run that
        succeeds, only so many of the ended ones stay. The rest is as in `Client.submit`. A schedule of this name that
        is equal stays as it is; another one is changed with `replace`. Raises SettingsInvalid, SourceMissing,
        SourceNotAllowed, VersionNotFound, or NotPossible.
        """
        check_name(name)
        when = timing(cron=cron, timezone=timezone, every=every, anchor=datetime.now().astimezone())
        options = {
            "model": None if model == "production" else model,
            "top_k": top_k,
            "priority": priority,
            "keep": keep,
            "listing_depth": 1 if listing_depth is None else listing_depth,
            "manifest": manifest,
            "notify": notify,
        }
        if listing_depth is not None and manifest is not None:
            raise SettingsInvalid("listing_depth and manifest exclude each other: a manifest names its listings")
        wanted = {
            "source": self._source(source, options),
            "cron": when.cron,
            "timezone": when.timezone,
            "every": None if when.every is None else when.every.total_seconds(),
            **options,
            "priority": Priority(priority).rank,
        }
        try:
            self._store(name, wanted, replace=replace)
        except IntegrityError:  # another client has added it meanwhile
            self._store(name, wanted, replace=replace)
        return records.Schedule.from_row(self._row(name))

    def _source(self, source: str | os.PathLike[str], options: Mapping[str, Any]) -> str:
        """Return the canonical source of options that can be used."""
        for option, least, most in (("keep", 1, MOST_KEPT), ("listing_depth", 0, MOST_DEPTH)):
            value = options[option]
            if value is not None and not least <= value <= most:
                raise SettingsInvalid(f"{option} must be from {least} to {most:,}, not {value}")
        if options["notify"] is not None:
            notifications.check(self._backend.settings, options["notify"])
        listed = sources.listed(source)
        if listed.files is not None:
            raise SettingsInvalid("the source of a schedule must be a folder or a URL, not a file")
        Request(listed=listed, name=None, key=None, **{o: options[o] for o in ("model", "top_k", "priority")})
        with sources.open_source(
            listed.source, roots=self._backend.settings.roots, max_file_bytes=self._backend.settings.max_file_bytes
        ) as opened:
            sources.has_images(opened)  # there may be none yet
        return listed.source

    def _store(self, name: str, wanted: Mapping[str, Any], *, replace: bool) -> None:
        with self._backend.database.write() as connection:
            known = schedules.lock(connection, name)
            differences = [] if known is None else [f for f in wanted if wanted[f] != getattr(known, f)]
            if known is not None and not differences:
                return
            if known is not None and not replace:
                told = ", ".join(_difference(f, known, wanted[f]) for f in differences)
                raise NotPossible(f"schedule {name} is there and is another one ({told}); to change it: --replace")
            model_registry.usable(connection, wanted["model"])
            moment = schedules.clock(connection)
            begun = {**wanted, **self._first(wanted, moment)}
            if known is None:
                schedules.add(connection, {"name": name, **begun})
            elif set(_TIMES) & set(differences):
                schedules.record(connection, known.id, [_missed(due) for due in _due(known, moment)])
                schedules.update_row(connection, known.id, begun)
            else:
                schedules.update_row(connection, known.id, wanted)

    @staticmethod
    def _first(wanted: Mapping[str, Any], moment: datetime) -> dict[str, datetime | None]:
        """The columns of a schedule that begins at `moment`."""
        every = None if wanted["every"] is None else timedelta(seconds=wanted["every"])
        when = Timing(cron=wanted["cron"], timezone=wanted["timezone"], every=every, anchor=moment)
        return {"anchor": moment, "next_at": when.after(moment)}

    def list(self) -> Sequence[records.Schedule]:
        """List all schedules by name."""
        with self._backend.database.read() as connection:
            return [records.Schedule.from_row(row) for row in schedules.listing(connection)]

    def show(self, name: str) -> records.ScheduleDetail:
        """Return a schedule with the newest 50 rows of its ledger. Raises ScheduleNotFound."""
        row = self._row(name)
        with self._backend.database.read() as connection:
            ledger = schedules.ledger(connection, row.id, limit=LEDGER)
        return records.ScheduleDetail.from_row(row, ledger=[records.Fire.from_row(each) for each in ledger])

    def pause(self, name: str) -> records.Schedule:
        """Let nothing become due for the time being; what runs continues. Raises ScheduleNotFound."""
        return self._pause(name, paused=True)

    def resume(self, name: str) -> records.Schedule:
        """Undo `pause`: of the due times in between, the newest fires. Raises ScheduleNotFound."""
        return self._pause(name, paused=False)

    def _pause(self, name: str, *, paused: bool) -> records.Schedule:
        with self._backend.database.write() as connection:
            row = _found(schedules.lock(connection, name), name)
            schedules.update_row(connection, row.id, {"paused": paused})
        return records.Schedule.from_row(self._row(name))

    def run(self, name: str, *, accept_shrink: bool = False) -> Job:
        """Make a job of the schedule now, whatever is due, and return it; the ledger is of due times alone.

        `accept_shrink`: the source may have less than half as many images as before. Raises ScheduleNotFound,
        NotPossible while a job of it runs, and what `Client.submit` raises.
        """
        job.check(self._backend, request_of(self._row(name)))
        with self._backend.database.write() as connection:
            row = _found(schedules.lock(connection, name), name)
            running = schedules.running_job(connection, row.id)
            if running is not None:
                raise NotPossible(f"job {running} is still running: wait for its end, or cancel it")
            job_id = job.enqueue(connection, request_of(row, accept_shrink=accept_shrink))
        self._backend.notify("scan", job_id)
        return Job(self._backend, str(job_id))

    def remove(self, name: str) -> None:
        """Delete a schedule with its ledger; its jobs stay. Raises ScheduleNotFound."""
        with self._backend.database.write() as connection:
            row = _found(schedules.lock(connection, name), name)
            schedules.remove(connection, row.id)

    def _row(self, name: str) -> ScheduleRecord:
        with self._backend.database.read() as connection:
            return _found(schedules.by_name(connection, name), name)


def check_name(name: str) -> None:
    """Raise SettingsInvalid for what cannot be a schedule's name."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise SettingsInvalid(f"name {name!r} must have 1 to 64 letters, digits, dots, underscores and hyphens")


def _found(row: ScheduleRecord | None, name: str) -> ScheduleRecord:
    if row is None:
        raise ScheduleNotFound(f"no schedule {name!r}; `cars schedule list` lists them")
    return row


def _difference(field: str, known: ScheduleRecord, wanted: Any) -> str:
    now = getattr(known, field)
    if field == "priority":
        now, wanted = Priority.of(now).value, Priority.of(wanted).value
    now, wanted = (redacted(value) if isinstance(value, str) else value for value in (now, wanted))
    return f"its {field} is {now}, not {wanted}"
