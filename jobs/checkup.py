"""What `cars doctor` looks at: each check says what it saw and, where it failed, what to do."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import broker, schema
from jobs.errors import CarClassifierError
from jobs.queries import versions, workers

if TYPE_CHECKING:
    from jobs.client import Client

__all__ = ["checkup"]

LOW_DISK_BYTES = 2**30


def checkup(client: Client) -> list[dict[str, Any]]:
    """The checks in order: check, ok, detail, advice (empty where ok)."""
    checks = [_database(client)]
    if checks[0]["ok"]:
        checks += [_schema(client), _production(client), _workers(client)]
    return [*checks, _broker(client), _roots(client), _disk(client), _engine()]


def _check(name: str, ok: bool, detail: str, advice: str = "") -> dict[str, Any]:
    return {"check": name, "ok": ok, "detail": detail, "advice": "" if ok else advice}


def _database(client: Client) -> dict[str, Any]:
    try:
        database = client.database
    except CarClassifierError as exc:
        return _check("database", False, str(exc), "set CARS_DATABASE_URL and run `cars migrate`")
    return _check("database", True, database.url.render_as_string(hide_password=True))


def _schema(client: Client) -> dict[str, Any]:
    try:
        schema.check(client.database)
    except CarClassifierError as exc:
        return _check("schema", False, str(exc), "run `cars migrate`")
    return _check("schema", True, "this release's")


def _production(client: Client) -> dict[str, Any]:
    with client.database.read() as connection:
        row = versions.production(connection)
    if row is None:
        return _check(
            "model", False, "none in production", "run `cars migrate`, or `cars model import` and `cars model promote`"
        )
    return _check("model", True, f"{row.name} is in production")


def _workers(client: Client) -> dict[str, Any]:
    with client.database.read() as connection:
        alive = workers.alive(connection)
    detail = ", ".join(f"{row.host}:{row.pid} ({row.device}, {row.queues})" for row in alive) or "none alive"
    if client.settings.embedded and not alive:
        return _check("workers", True, "none alive; `cars classify` brings its own, `cars worker` starts one")
    return _check("workers", bool(alive), detail, "start one with `cars worker`")


def _broker(client: Client) -> dict[str, Any]:
    if client.settings.embedded:
        return _check("broker", True, "inside each worker")
    reason = broker.answers(client.settings)
    return _check(
        "broker", reason is None, reason or broker.shown(client.settings.broker_url), "start it, or set CARS_BROKER_URL"
    )


def _roots(client: Client) -> dict[str, Any]:
    roots = client.settings.roots
    if roots is None:
        return _check("source roots", True, "any folder")
    missing = [root for root in roots if "://" not in root and not Path(root).is_dir()]
    detail = ", ".join(roots) or "none: no folder may be read"
    advice = "set CARS_SOURCE_ROOTS to the folders and URL prefixes that workers may read, separated by commas"
    return _check(
        "source roots", bool(roots) and not missing, f"missing: {', '.join(missing)}" if missing else detail, advice
    )


def _disk(client: Client) -> dict[str, Any]:
    home = client.settings.home
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    writable = os.access(home, os.W_OK)
    ok = writable and free > LOW_DISK_BYTES
    return _check("home", ok, f"{home}, {free / 2**30:.1f} GiB free", "make CARS_HOME writable, with a gigabyte free")


def _engine() -> dict[str, Any]:
    found = [name for name in ("onnxruntime", "torch") if find_spec(name)]
    if not (found and find_spec("PIL")):
        detail = "none installed: this is a client only"
        return {
            "check": "engine",
            "ok": True,
            "detail": detail,
            "advice": "workers need pip install 'car-classifier[cpu]' or [gpu]",
        }
    return _check("engine", True, ", ".join(found))
