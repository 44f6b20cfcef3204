"""Commands of `python -P -m workers`: worker, beat, check, import, export, evaluate, preview."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs import model_registry
from jobs import settings as configuration
from jobs.db import migrate
from jobs.db.database import Database
from jobs.db.queries.versions import VersionRecord
from jobs.errors import CarClassifierError, SettingsInvalid
from jobs.queues import QUEUES
from jobs.requirements import require_training_packages
from workers import footprint

__all__ = ["main"]

commands = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@commands.command()
def worker(
    queues: Annotated[str, typer.Option(help="Of control, classify and train.")] = "control,classify",
    concurrency: Annotated[int | None, typer.Option(min=1, help="Engine processes; default: one per device.")] = None,
    beat: Annotated[bool, typer.Option("--beat", help="Tick the schedules too.")] = False,
) -> None:
    """Work until stopped: a prefork parent with one engine child per device."""
    names = [name.strip() for name in queues.split(",") if name.strip()]
    if not names or not set(names) <= set(QUEUES):
        raise SettingsInvalid(f"--queues {queues!r}: choose of {', '.join(QUEUES)}")
    if "train" in names:
        require_training_packages()
    settings = configuration.load()
    _prepare(settings)
    from workers import devices
    from workers.app import app

    only_trains = names == ["train"]
    processes = concurrency or (1 if only_trains else devices.count(settings))
    options = [f"--concurrency={processes}", f"--queues={','.join(names)}", "--loglevel=INFO"]
    if only_trains:
        options.append("--max-tasks-per-child=1")  # a new process has all of the memory, the GPU's too
    quiet = ["--without-gossip", "--without-mingle"]
    if settings.embedded:
        quiet.append("--without-heartbeat")  # Celery's, which its own tools look at; ours is in the database
        beat = False  # its process would fill a broker of its own, which nobody reads; this worker ticks by itself
    sys.exit(app.worker_main(["--quiet", "worker", *options, *quiet, *(["--beat"] if beat else [])]))


@commands.command("beat")
def beat_() -> None:
    """Tick until stopped; any number of beats does no harm."""
    settings = configuration.load()
    if settings.embedded:
        raise SettingsInvalid(
            "the in-process broker reaches no other process: run `cars worker`, which ticks by itself, or set "
            "CARS_BROKER_URL"
        )
    _prepare(settings)
    from workers.app import app

    _ = app.amqp.Producer  # imported now: from the moment that beat handles signals, SIGTERM must not come in between
    app.start(["--quiet", "beat", "--loglevel=INFO"])


@commands.command()
def check() -> None:
    """Load the version in production and give it one image; prints a JSON object, or exits 1 with the reason."""
    from workers import self_check

    settings = configuration.load()
    _prepare(settings)
    print(json.dumps({"ok": True, **self_check.check(settings)._asdict()}))


@commands.command("import")
def import_(folder: Path) -> None:
    """Check a published version and add it to the store and the registry."""
    from model.cards import verify
    from workers.artifacts import register

    settings = configuration.load()
    _prepare(settings)
    card = verify(folder)
    database = Database(settings.database)
    try:
        added = register(settings, database, folder, card)
        live = any(row.production for row in model_registry.listing(database) if row.name == card.name)
    finally:
        database.close()
    print(card.name)
    if not added:
        print(f"{card.name} was registered already; its files are whole", file=sys.stderr)
    elif not live:
        print(f"to use it for new jobs: cars model promote {card.name}", file=sys.stderr)


@commands.command("export")
def export_(version: str, folder: Path) -> None:
    """Write a registered version's files, verified, to a new folder."""
    from workers.artifacts import Artifacts, export

    settings = configuration.load()
    _prepare(settings)
    row = _resolve(settings, version)
    usual = os.umask(0o077)  # in CARS_HOME; the folder is the user's
    try:
        found = Artifacts(settings).find(row)
    finally:
        os.umask(usual)
    export(*found, folder)
    print(folder)


@commands.command()
def evaluate(
    version: str,
    dataset: Path,
    split: Annotated[str, typer.Option(help="train, calibration, holdout or all.")] = "all",
    other: Annotated[Path | None, typer.Option(help="Images that show no car: a folder with labels.csv.")] = None,
) -> None:
    """Evaluate a registered version on labelled images, by this machine's engine; prints a JSON object."""
    settings = configuration.load()
    _prepare(settings)
    from model.data.ood_images import open_ood_images
    from model.evaluation.metrics import evaluate_version
    from workers.artifacts import Artifacts

    ood_images = open_ood_images(other) if other else None
    folder, _ = Artifacts(settings).find(_resolve(settings, version))
    found = evaluate_version(
        folder, dataset, split=split, engine=settings.engine, device=settings.device, ood_images=ood_images
    )
    if found["left_out"]:
        names = ", ".join(f"{row['label']} ({row['images']})" for row in found["left_out"])
        print(f"left out, as when {version} was trained: {names}", file=sys.stderr)
    print(json.dumps(found))


@commands.command()
def preview() -> None:
    """Decode and classify single images that come in on stdin, for the report and the web console, until it ends."""
    from workers.preview import serve

    settings = configuration.load()
    footprint.keep_to(settings.home)
    serve(settings)


def _prepare(settings: configuration.Settings) -> None:
    """Errors come before a worker starts."""
    footprint.keep_to(settings.home)
    database = Database(settings.database)
    try:
        migrate.prepare(database)
    finally:
        database.close()


def _resolve(settings: configuration.Settings, version: str) -> VersionRecord:
    """Return the row of a version. Raises VersionNotFound or NotPossible."""
    database = Database(settings.database)
    try:
        with database.read() as connection:
            return model_registry.resolve(connection, version)
    finally:
        database.close()


def _keep_private(settings: configuration.Settings) -> None:
    """Make what this process writes private, unless its model store lies outside CARS_HOME, where others share it."""
    store = settings.model_store
    if "://" in store or Path(store).absolute().is_relative_to(settings.home):
        os.umask(0o077)


def main() -> None:
    """Run a command; expected errors are one line and exit 1 (2 for settings)."""
    from model.errors import ModelError

    try:
        if "export" not in sys.argv[1:2]:  # which writes where the user wants it
            _keep_private(configuration.load())
        commands()
    except SettingsInvalid as exc:
        _complain(exc)
        sys.exit(2)
    except (CarClassifierError, ModelError) as exc:
        _complain(exc)
        sys.exit(1)


def _complain(error: Exception) -> None:
    if sys.argv[1:2] in (["worker"], ["beat"]):
        from workers import logs

        logs.complain(str(error))
    else:
        print(f"error: {error}", file=sys.stderr)
