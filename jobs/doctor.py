"""What `cars doctor` looks at: each check says what it saw and, where it failed, what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import broker
from jobs.db import migrate
from jobs.db.queries import notifications, schedules, versions, workers
from jobs.disk import check_writable, private_folder, trouble
from jobs.errors import CarClassifierError
from jobs.photo_store import local_folder
from jobs.records import CheckResult, iso
from jobs.redaction import redacted
from jobs.settings import environment
from jobs.states import VersionState

if TYPE_CHECKING:
    from jobs.backend import Backend
    from jobs.records import Json

__all__ = ["checkup"]

LOW_DISK_BYTES = 2**30
OVERDUE_SECONDS = 60
FAILING_TIMES = 3
GIVEN_UP_DAYS = 7
CHECK_SECONDS = 120  # a worker loads its engine and classifies one image
_ENGINE_ADVICE = "check CARS_DEVICE, CARS_ENGINE and CARS_MODELS, and what is installed"


def checkup(backend: Backend) -> list[CheckResult]:
    """Run the checks in order and return what each found; `advice` is empty where it is well."""
    checks = [_database(backend)]
    if checks[0].ok:
        checks += [_schema(backend), _production(backend), _files(backend), _workers(backend)]
        checks += [_schedules(backend), _notifications(backend)]
    return [*checks, _broker(backend), _roots(backend), _disk(backend), _engine(backend)]


def _check(name: str, ok: bool, detail: str, advice: str = "") -> CheckResult:
    return CheckResult(check=name, ok=ok, detail=detail, advice="" if ok else advice)


def _database(backend: Backend) -> CheckResult:
    try:
        database = backend.database
    except CarClassifierError as exc:
        return _check("database", False, str(exc), "set CARS_DATABASE_URL and run `cars migrate`")
    return _check("database", True, redacted(database.url))


def _schema(backend: Backend) -> CheckResult:
    try:
        migrate.check(backend.database)
    except CarClassifierError as exc:
        return _check("schema", False, str(exc), "run `cars migrate`")
    return _check("schema", True, "this release's")


def _production(backend: Backend) -> CheckResult:
    with backend.database.read() as connection:
        row = versions.production(connection)
    if row is None:
        return _check(
            "model", False, "none in production", "run `cars migrate`, or `cars model import` and `cars model promote`"
        )
    return _check("model", True, f"{row.name} is in production")


def _files(backend: Backend) -> CheckResult:
    """Whether the store has every file of the versions that can be used."""
    with backend.database.read() as connection:
        rows = [row for row in versions.page(connection) if row.location == "store"]
    store = backend.settings.model_store
    lost = []
    try:
        for row in rows:
            if row.state == VersionState.AVAILABLE and (missing := _missing(store, row.name, row.card["files"])):
                lost.append(f"{row.name} ({missing[0]}{', …' if len(missing) > 1 else ''})")
    except Exception as exc:  # every driver raises its own
        return _check("model files", False, f"{redacted(store)} cannot be read: {exc}", "check CARS_MODELS")
    advice = "bring them back with `cars model import FOLDER`, or take the version out with `cars model retire NAME`"
    detail = f"files are lost in {redacted(store)}: {', '.join(lost)}" if lost else "all there"
    return _check("model files", not lost, detail, advice)


def _missing(store: str, name: str, files: Iterable[str]) -> list[str]:
    needed = [*files, "card.json"]
    folder = local_folder(store)
    if folder is not None:
        return [file for file in needed if not (folder / name / file).is_file()]
    import fsspec

    remote, root = fsspec.core.url_to_fs(store)
    return [file for file in needed if not remote.exists(f"{root.rstrip('/')}/{name}/{file}")]


def _workers(backend: Backend) -> CheckResult:
    with backend.database.read() as connection:
        alive = workers.alive(connection)
    detail = ", ".join(f"{row.host}:{row.pid} ({row.device}, {row.queues})" for row in alive) or "none alive"
    if backend.settings.embedded and not alive:
        return _check("workers", True, "none alive; `cars classify` starts its own, `cars worker` starts one")
    return _check("workers", bool(alive), detail, "start one with `cars worker`")


def _schedules(backend: Backend) -> CheckResult:
    """Whether every schedule fires in time, and comes to something."""
    with backend.database.read() as connection:
        names = [row.name for row in schedules.listing(connection)]
        late = schedules.overdue(connection, seconds=OVERDUE_SECONDS)
        failing = schedules.not_completed(connection, times=FAILING_TIMES)
    wrong = [f"{name} is overdue since {iso(due_at)}" for name, due_at in late]
    wrong += [f"{name} has not completed its last {FAILING_TIMES} due times ({_why(row)})" for name, row in failing]
    detail = "; ".join(wrong) or f"{len(names)} of them" if names else "none"
    advice = "start a worker if none is alive: each of them fires schedules" if late else ""
    return _check("schedules", not wrong, detail, advice or "look into them with `cars schedule show NAME`")


def _why(row: schedules.LedgerRow) -> str:
    return row.reason or f"job {row.job_id} is {row.job_state}"


def _notifications(backend: Backend) -> CheckResult:
    """Whether the ends of jobs could be told to their URLs."""
    with backend.database.read() as connection:
        given_up = notifications.given_up(connection, seconds=timedelta(days=GIVEN_UP_DAYS).total_seconds())
    if not given_up:
        return _check("notifications", True, f"none given up in {GIVEN_UP_DAYS} days")
    job_id, reason = given_up[0]
    detail = f"{len(given_up)} given up in {GIVEN_UP_DAYS} days, the newest of job {job_id}: {reason}"
    return _check("notifications", False, detail, "put that right; later jobs are told of anew")


def _broker(backend: Backend) -> CheckResult:
    if backend.settings.embedded:
        return _check("broker", True, "inside each worker")
    reason = broker.connection_error(backend.settings)
    return _check(
        "broker",
        reason is None,
        reason or redacted(backend.settings.broker_url),
        "start it, or set CARS_BROKER_URL",
    )


def _roots(backend: Backend) -> CheckResult:
    roots = backend.settings.roots
    if roots is None:
        return _check("source roots", True, "any folder")
    shown = [redacted(root) for root in roots]
    missing = [root for root in roots if "://" not in root and not Path(root).is_dir()]
    detail = ", ".join(shown) or "none: no folder may be read"
    advice = "set CARS_SOURCE_ROOTS to the folders and URL prefixes that workers may read, separated by commas"
    return _check(
        "source roots", bool(roots) and not missing, f"missing: {', '.join(missing)}" if missing else detail, advice
    )


def _disk(backend: Backend) -> CheckResult:
    home = backend.settings.home
    try:
        private_folder(home)
    except OSError as exc:
        return _check("home", False, f"{home} cannot be made", f"{trouble(exc, home.parent)} (CARS_HOME)")
    free = shutil.disk_usage(home).free
    if wrong := check_writable(home):
        return _check("home", False, wrong, "set CARS_HOME to a folder that can be written")
    detail = f"{home}, {free / 2**30:.1f} GiB free"
    return _check("home", free > LOW_DISK_BYTES, detail, "make room: CARS_HOME needs a gigabyte free")


def _engine(backend: Backend) -> CheckResult:
    """Whether a worker of these settings could work here: one is asked, in a process of its own."""
    found = [name for name in ("onnxruntime", "torch") if find_spec(name)]
    if not find_spec("PIL") or not (found or ":" in backend.settings.engine):
        advice = "workers need pip install 'car-classifier[cpu]' or [gpu]"
        return CheckResult(check="engine", ok=True, detail="none installed: this is a client only", advice=advice)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "workers", "check"],
            env=environment(backend.settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        why = f"no answer within {CHECK_SECONDS} s" if isinstance(exc, subprocess.TimeoutExpired) else str(exc)
        return _check("engine", False, f"a worker could not work here: {why}", _ENGINE_ADVICE)
    if done.returncode == 2 and "No such command" in done.stderr:  # workers of another release
        return _check("engine", True, ", ".join(found))
    said = _last_json(done.stdout)
    if done.returncode == 0 and said.get("ok"):
        return _check(
            "engine", True, " ".join(str(said[key]) for key in ("engine", "device", "version") if said.get(key))
        )
    why = (done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"])[-1]
    return _check("engine", False, f"a worker could not work here: {why.removeprefix('error: ')}", _ENGINE_ADVICE)


def _last_json(output: str) -> Json:
    """The object in the last line; empty where there is none."""
    try:
        found = json.loads((output.strip().splitlines() or [""])[-1])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
