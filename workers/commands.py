"""Commands of `python -P -m workers`: worker, beat, import, evaluate."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs import registry, schema
from jobs import settings as configuration
from jobs.broker import QUEUES
from jobs.cli.local_worker import require_training_packages
from jobs.cli.output import Format, print_record
from jobs.cli.table import Column
from jobs.database import Database
from jobs.errors import CarClassifierError, SettingsInvalid

__all__ = ["main"]

commands = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@commands.command()
def worker(
    queues: Annotated[str, typer.Option(help="Of control, classify and train.")] = "control,classify",
    concurrency: Annotated[int | None, typer.Option(min=1, help="Engine processes; default: one a device.")] = None,
    beat: Annotated[bool, typer.Option("--beat", help="Tick the schedules too.")] = False,
) -> None:
    """Work until stopped: a prefork parent with one engine child a device."""
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
    options = ["--pool=prefork", f"--concurrency={processes}", f"--queues={','.join(names)}", "--loglevel=INFO"]
    if only_trains:
        options.append("--max-tasks-per-child=1")  # a new process has all of the memory, the GPU's too
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    sys.exit(app.worker_main(["--quiet", "worker", *options, *quiet, *(["--beat"] if beat else [])]))


@commands.command("beat")
def beat_() -> None:
    """Tick until stopped; any number of beats does no harm."""
    settings = configuration.load()
    if settings.embedded:
        raise SettingsInvalid(
            "the in-process broker reaches no other process: run `cars worker --beat` instead, or set CARS_BROKER_URL"
        )
    _prepare(settings)
    from workers.app import app

    app.start(["--quiet", "beat", "--loglevel=INFO"])


@commands.command("import")
def import_(folder: Path) -> None:
    """Check a published version and add it to the store and the registry."""
    from model.card import verify
    from workers.publishing import register

    settings = configuration.load()
    _prepare(settings)
    card = verify(folder)
    database = Database(settings.database)
    try:
        added = register(settings, database, folder, card)
        live = any(row["production"] for row in registry.listing(database) if row["name"] == card.name)
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
    from workers.publishing import export
    from workers.runtime import Runtime

    settings = configuration.load()
    _prepare(settings)
    runtime = Runtime(settings, identity="export", ring=lambda *_: False)
    try:
        with runtime.database.read() as connection:
            row = registry.resolve(connection, version)
        usual = os.umask(0o077)  # in CARS_HOME; the folder is the user's
        try:
            found = runtime.artifact(row)
        finally:
            os.umask(usual)
        export(*found, folder)
    finally:
        runtime.close()
    print(folder)


@commands.command()
def evaluate(
    version: str,
    dataset: Path,
    split: Annotated[str, typer.Option(help="train, calibration, holdout or all.")] = "all",
    form: Annotated[Format | None, typer.Option("--format")] = None,
) -> None:
    """Judge a registered version on labelled photos, by this machine's engine."""
    from model.training.evaluate import evaluate_version
    from workers.runtime import Runtime

    settings = configuration.load()
    _prepare(settings)
    runtime = Runtime(settings, identity="evaluate", ring=lambda *_: False)
    try:
        with runtime.database.read() as connection:
            row = registry.resolve(connection, version)
        folder, _ = runtime.artifact(row)
        found = evaluate_version(folder, dataset, split=split, engine=settings.engine, device=settings.device)
    finally:
        runtime.close()
    numbers = {name: value for name, value in found.items() if not isinstance(value, list | dict)}
    print_record(found, form, columns=[Column(name) for name in numbers])


def _prepare(settings: configuration.Settings) -> None:
    """Errors come before a worker starts."""
    database = Database(settings.database)
    try:
        schema.prepare(database)
    finally:
        database.close()


def _keep_private(settings: configuration.Settings) -> None:
    """Let what this process writes be nobody else's, unless its model store lies outside CARS_HOME, for others too."""
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
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(2)
    except (CarClassifierError, ModelError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(1)
