"""How long questions to a large database take: pages of results, statuses, summaries; then export, deletion, bytes.

    PYTHONPATH=. python -P -m benchmarks.queries --rows 1000000 [--database sqlite|URL] [--reuse] [--keep] [--only PART]

Without --database it starts a PostgreSQL of its own, with fsync on; `sqlite` is a file in a temporary folder. The
database is filled by `benchmarks.fill`, unless --reuse takes what it holds. Print a JSON object per line: for a
question the median and the 95th percentile over some draws of what is asked for, and how many rows came. --keep leaves
the filled database in place, and `delete` and `prune`, which change it, out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import func, select, text

from benchmarks import fill
from jobs import Client
from jobs.db import migrate
from jobs.db.database import Database
from jobs.db.tables import Base, ClassRow, JobRow, TotalRow, VersionRow
from jobs.settings import load
from jobs.states import Decision, ImageStatus
from tests.support.servers import Postgres

PAGE, NTH = 100, 100
SUMMARIES = ("make", "model", "body", "year", "decision", "listing", "day", "version", "code")
EXPORTED = 500_000
OLDER_THAN = timedelta(days=45)

Wanted = Mapping[str, Any]


class Draws:
    """Values to ask for, drawn of what is stored: one time frequent ones, one time any."""

    def __init__(self, database: Database, seed: int) -> None:
        self._random = random.Random(seed)
        with database.read() as connection:
            images = func.sum(TotalRow.images).label("images")
            parts = (ClassRow.label, ClassRow.make, ClassRow.model, ClassRow.body, ClassRow.year)
            query = select(*parts, images).join(TotalRow, TotalRow.class_id == ClassRow.id).group_by(*parts)
            self._classes = connection.execute(query.order_by(images.desc())).mappings().all()
            self._jobs = connection.execute(select(JobRow.id, JobRow.total, VersionRow.name).join(VersionRow)).all()
        self.largest = max(self._jobs, key=lambda job: job.total).id

    def part(self, name: str) -> Any:
        frequent = self._random.random() < 0.5
        classes = self._classes[:10] if frequent else self._classes
        return self._random.choice([row[name] for row in classes if row[name] is not None])

    def job(self) -> int:
        return int(self.largest if self._random.random() < 0.3 else self._random.choice(self._jobs).id)

    def listing(self, job: int | None = None) -> str:
        job = job or self.job()
        total = next(row.total for row in self._jobs if row.id == job)
        return f"car {job}-{self._random.randrange(-(-total // fill.LISTING)):07}"

    def version(self) -> str:
        return str(self._random.choice(self._jobs).name)

    def moment(self) -> datetime:
        return datetime.now(UTC) - timedelta(days=self._random.uniform(1, fill.DAYS))

    def confidence(self) -> float:
        return self._random.uniform(0.3, 0.99)

    def one_of(self, values: Any) -> Any:
        return self._random.choice([str(value) for value in values])


class Question(NamedTuple):
    """A question: its name, and what it asks for, drawn anew each time."""

    name: str
    wanted: Callable[[Draws], Wanted]


FILTERS = [
    Question("label", lambda d: {"label": d.part("label")}),
    Question("make", lambda d: {"make": d.part("make")}),
    Question("model", lambda d: {"model": d.part("model")}),
    Question("body", lambda d: {"body": d.part("body")}),
    Question("year", lambda d: {"year": d.part("year")}),
    Question("decision", lambda d: {"decision": d.one_of(Decision)}),
    Question("min_confidence", lambda d: {"min_confidence": d.confidence()}),
    Question("max_confidence", lambda d: {"max_confidence": d.confidence()}),
    Question("listing", lambda d: {"listing": d.listing()}),
    Question("since", lambda d: {"since": d.moment()}),
    Question("until", lambda d: {"until": d.moment()}),
    Question("version", lambda d: {"version": d.version()}),
    Question("status", lambda d: {"status": d.one_of(ImageStatus)}),
    Question("job", lambda d: {"job": d.job()}),
    Question("make + since", lambda d: {"make": d.part("make"), "since": d.moment()}),
    Question("decision + max_confidence", lambda d: {"decision": d.one_of(Decision), "max_confidence": d.confidence()}),
    Question("version + label", lambda d: {"version": d.version(), "label": d.part("label")}),
    Question("job + make", lambda d: {"job": d.job(), "make": d.part("make")}),
    Question("job + listing", lambda d: (lambda job: {"job": job, "listing": d.listing(job)})(d.job())),
    Question("body + year", lambda d: {"body": d.part("body"), "year": d.part("year")}),
    Question("status + since", lambda d: {"status": d.one_of(("ok", "failed")), "since": d.moment()}),
    Question("newest first", lambda _: {"sort": "time"}),
    Question("lowest confidence first", lambda _: {"sort": "confidence", "reverse": True}),
]


def page(client: Client, wanted: Wanted, number: int) -> tuple[float, int] | None:
    """Return the milliseconds that a page takes, as a program or command asks for it, and its rows.

    The cursor of the page before is asked for outside the time; None where there is no such page.
    """
    filters = dict(wanted)
    job = filters.pop("job", None)
    asked = partial(client.results, None if job is None else str(job), **filters)
    after = None
    if number > 1:
        after = asked().page(limit=PAGE * (number - 1)).next
        if after is None:
            return None
    began = time.perf_counter()
    rows = asked().page(after, limit=PAGE).results
    return (time.perf_counter() - began) * 1000, len(rows)


def timed(ask: Callable[[], Any]) -> tuple[float, int]:
    began = time.perf_counter()
    found = ask()
    milliseconds = (time.perf_counter() - began) * 1000
    return milliseconds, len(found) if isinstance(found, list) else 1


def figures(name: str, measured: list[tuple[float, int] | None]) -> dict[str, Any] | None:
    """Sum up the draws of one question: a line of the report."""
    found = [each for each in measured if each is not None]
    if not found:
        return None
    milliseconds, rows = zip(*found, strict=True)
    return {
        "query": name,
        "rows": int(np.median(rows)),
        "p50_ms": round(float(np.percentile(milliseconds, 50)), 2),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 2),
        "draws": len(found),
    }


def questions(client: Client, draws: Draws, repeats: int, only: re.Pattern[str]) -> Iterator[dict[str, Any] | None]:
    """Ask all questions and yield their figures."""
    for question in FILTERS:
        for number, which in ((1, "first page"), (NTH, f"page {NTH}")):
            name = f"{question.name}, {which}"
            if only.search(name):
                asked = [question.wanted(draws) for _ in range(repeats)]
                page(client, asked[0], number)  # opens connections and compiles the statement
                yield figures(name, [page(client, each, number) for each in asked])

    def of_a_job(by: str) -> object:
        return client.summary(str(draws.job()), by=by)

    others: dict[str, Callable[[], Any]] = {
        "status": lambda: client.job(str(draws.job())),
        "jobs": lambda: list(client.jobs(limit=PAGE)),
        "errors": lambda: list(islice(client.errors(str(draws.job())), PAGE)),
        "summary": client.summary,
        "summary of a job": lambda: client.summary(str(draws.job())),
        **{f"summary by {by}": partial(client.summary, by=by) for by in SUMMARIES},
        **{f"summary of a job by {by}": partial(of_a_job, by) for by in SUMMARIES},
        "summary by make, since": lambda: client.summary(by="make", since=draws.moment()),
    }
    for name, ask in others.items():
        if only.search(name):
            timed(ask)
            yield figures(name, [timed(ask) for _ in range(repeats)])


def export(client: Client, folder: Path, suffix: str, rows: int) -> dict[str, Any]:
    """Write results to a file; the growth is of the process's peak, after a file with a tenth of the rows."""
    client.results(limit=max(rows // 10, 1)).write(folder / f"warm{suffix}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.perf_counter(), time.process_time()
    count = client.results(limit=rows).write(folder / f"results{suffix}")
    seconds = time.perf_counter() - began
    return {
        "query": f"export to {suffix}",
        "rows": count,
        "rows_per_second": round(count / seconds),
        "cpu_microseconds_per_row": round((time.process_time() - cpu) / count * 1e6, 1),
        "growth_mib": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
    }


def copy(database: Database, rows: int) -> dict[str, Any] | None:
    """Read the same columns with COPY alone: what PostgreSQL needs for them, and so what an export compares with."""
    if database.sqlite:
        return None
    columns = (
        "i.job_id, i.path, i.listing, i.status, p.label, p.make, p.model, p.body, p.year, p.confidence, p.decision, "
        "p.probabilities, v.name, i.content_hash, i.finished_at, c.label AS correction, i.error_code, i.error_message"
    )
    sql = (
        f"COPY (SELECT {columns} FROM images i JOIN jobs j ON j.id = i.job_id JOIN model_versions v "
        "ON v.id = j.version_id LEFT JOIN predictions p ON p.version_id = j.version_id AND p.content_hash = "
        f"i.content_hash LEFT JOIN corrections c ON c.content_hash = i.content_hash LIMIT {rows}) TO STDOUT"
    )
    began = time.perf_counter()
    with database.read() as connection:
        raw: Any = connection.connection.driver_connection
        with raw.cursor() as cursor, cursor.copy(sql) as blocks:
            for _ in blocks:
                pass
    seconds = time.perf_counter() - began
    return {"query": "COPY of the same columns", "rows": rows, "rows_per_second": round(rows / seconds)}


def stored_bytes(database: Database, rows: int) -> dict[str, Any]:
    """Return the bytes on disk per image, of all tables with their indexes."""
    with database.read() as connection:
        if database.sqlite:
            pages = connection.execute(text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))
            return {"query": "bytes per image", "rows": rows, "bytes": round(pages.scalar_one() / rows, 1)}
        size = func.pg_total_relation_size
        tables = {table.name: connection.scalar(select(size(table.name))) for table in Base.metadata.sorted_tables}
    per_image = {name: round(found / rows, 1) for name, found in tables.items() if found and found / rows >= 1}
    total = round(sum(found or 0 for found in tables.values()) / rows, 1)
    return {"query": "bytes per image", "rows": rows, "bytes": total, **per_image}


def deletions(client: Client, draws: Draws, only: re.Pattern[str]) -> Iterator[dict[str, Any]]:
    """Delete the largest job, then all that ended long ago."""
    if only.search("delete"):
        rows = client.job(str(draws.largest)).status().total
        milliseconds, _ = timed(lambda: client.delete(str(draws.largest)))
        yield {"query": "delete", "rows": rows, "seconds": round(milliseconds / 1000, 2)}
    if only.search("prune"):
        began = time.perf_counter()
        removed = client.prune(OLDER_THAN)
        seconds = round(time.perf_counter() - began, 2)
        yield {"query": "prune", "rows": removed["predictions"], "jobs": removed["jobs"], "seconds": seconds}


def measure(client: Client, arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any] | None]:
    database, only = client.database, re.compile(arguments.only)
    draws = Draws(database, arguments.seed)
    with database.read() as connection:
        stored = int(connection.execute(select(func.sum(JobRow.total))).scalar_one())
    yield from questions(client, draws, arguments.repeats, only)
    rows = min(stored, EXPORTED)
    for suffix in (".csv", ".parquet"):
        if only.search(f"export to {suffix}"):
            yield export(client, folder, suffix, rows)
    if only.search("COPY"):
        yield copy(database, rows)
    if only.search("bytes"):
        yield stored_bytes(database, stored)
    if not arguments.keep:
        yield from deletions(client, draws, only)


@contextmanager
def place(wanted: str | None, folder: Path) -> Iterator[str]:
    """Yield the URL of the database to fill."""
    if wanted is not None:
        yield f"sqlite:///{folder / 'cars.db'}" if wanted == "sqlite" else wanted
        return
    postgres = Postgres(durable=True)
    try:
        postgres.start()
        with postgres.database() as url:
            yield url
    finally:
        postgres.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", help="sqlite, or the URL of an empty database")
    parser.add_argument("--reuse", action="store_true", help="the database is filled already")
    parser.add_argument("--keep", action="store_true", help="leave the database in place, and deletions out")
    parser.add_argument("--only", default="", metavar="PATTERN", help="questions whose names have this in them")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.reuse and arguments.database in (None, "sqlite"):
        parser.error("--reuse needs the URL of a filled database")
    if arguments.keep and arguments.database is None:
        parser.error("--keep needs --database: the server that is started here goes away at the end")
    temporary = tempfile.mkdtemp(dir="/var/tmp", prefix="cars-queries-")
    try:
        with place(arguments.database, Path(temporary)) as url:
            run(url, arguments, Path(temporary))
    finally:
        if not (arguments.keep and arguments.database == "sqlite"):
            shutil.rmtree(temporary)


def run(url: str, arguments: argparse.Namespace, folder: Path) -> None:
    """Fill the database and print what is measured."""
    settings = load(home=folder, database_url=url)
    if not arguments.reuse:
        database = Database(url)
        migrate.migrate(database)
        began = time.perf_counter()
        fill.fill(database, arguments.rows, seed=arguments.seed)
        print(f"{url}: {arguments.rows:,} rows in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        database.close()
    with Client(settings=settings) as client:
        for line in measure(client, arguments, folder):
            if line is not None:
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
