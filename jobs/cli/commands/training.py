"""Commands about training: train, training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from jobs.cli.context import LocalWorker, session
from jobs.cli.output.formats import Format, FormatOption, error, notice, print_record, print_rows
from jobs.cli.output.table import Column, Row, moment, percent, plain
from jobs.cli.signals import Terminated, terminable
from jobs.errors import DatabaseUnavailable, WorkerFailed
from jobs.polling import outlasting
from jobs.states import RunState
from jobs.training_progress import RunBar, Status, doing, figures, outcome, speed
from jobs.training_run import anyone_trains

if TYPE_CHECKING:
    from jobs.client import Client
    from jobs.training_run import Training

__all__ = ["train", "training"]

_PATIENCE = 20.0  # seconds a local worker gets to give its run back
_POLL_SECONDS = 0.25
_WATCH_SECONDS = 2.0


class Recipe(StrEnum):
    DISTILL = "distill"  # from a teacher's answers
    FINETUNE = "finetune"  # from a published version
    ORIGINAL = "original"  # as the original work, from ImageNet weights
    SCRATCH = "scratch"  # from random weights


def _epochs(row: Row) -> str:
    return f"{row['epoch']}/{row['epochs']}" if row["epochs"] else ""


def _top1(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name]['top1']:.2%}" if row[name] else ""


_ROWS = (
    Column("id"),
    Column("state"),
    Column("recipe"),
    Column("epoch", show=_epochs, right=True),
    Column("accuracy", show=percent("accuracy"), right=True),
    Column("model_version"),
    Column("live", show=lambda row: "promoted" if row["promoted"] else ""),
    Column("created", show=moment("created_at")),
    Column("dataset", shrinks="to end"),
)
_RECORD = (
    *map(Column, ("id", "state", "stage", "error", "reason", "model_version", "promoted", "dataset", "recipe", "init")),
    Column("epoch", show=_epochs),
    *map(Column, ("train_loss", "valid_loss")),
    Column("accuracy", show=percent("accuracy")),
    Column("rate", show=lambda row: speed(row) if row["images_per_second"] else ""),
    Column("candidate", show=_top1("candidate")),
    Column("production", show=_top1("production")),
    Column("notes", show=lambda row: "; ".join(map(plain, row["notes"]))),
    *(Column(name, show=moment(f"{name}_at")) for name in ("created", "started", "finished")),
)


def train(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Labelled photos: a folder a class, a CSV, the Stanford devkit.")],
    recipe: Annotated[Recipe, typer.Option(help="How to train.")] = Recipe.FINETUNE,
    init: Annotated[
        str | None,
        typer.Option(metavar="VERSION|imagenet|scratch|FILE", help="What to start from; default: the recipe's own."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="VERSION|FILE.onnx", help="What the recipe distill learns from.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of the run; default: the recipe's own.")] = None,
    min_gain: Annotated[
        float, typer.Option(help="Promote only if top-1 is higher by this share (0.01: one point).")
    ] = 0.0,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever it is worth.")] = False,
    promote: Annotated[bool, typer.Option("--promote/--no-promote", help="Whether it may go live by itself.")] = True,
    min_photos: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Leave out classes with fewer photos to learn from; the run lists them."),
    ] = None,
    other: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Photos that show no car, with labels.csv: file, what, split.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and random numbers.")] = 0,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; runs a training worker of its own when none is alive.")
    ] = False,
) -> None:
    """Train on labelled photos, publish, judge beside production, promote what is better; prints the run's id."""
    options: dict[str, Any] = {
        "recipe": recipe.value, "init": init, "teacher": teacher, "epochs": epochs, "min_gain": min_gain,
        "force": force, "promote": promote, "min_photos": min_photos, "other": other, "seed": seed,
    }  # fmt: skip
    door = session(ctx)
    with terminable(), door.client() as client:
        worker = door.training_worker()
        try:
            if wait:
                _see_to_work(client, worker)  # before the run, so that nothing is enqueued where nobody can train
            run = client.train(dataset, **options)
            typer.echo(run.id)
            sys.stdout.flush()
            if wait:
                _finish(_wait(run, client, worker))
            elif not anyone_trains(client):
                notice("no training worker is alive; start one: cars worker --queues train")
        finally:
            worker.stop(patience=_PATIENCE)


def _wait(run: Training, client: Client, worker: LocalWorker) -> Status:
    try:
        return _follow(run, watch=lambda: _see_to_work(client, worker))
    except (KeyboardInterrupt, Terminated, WorkerFailed):
        notice(
            f"training run {run.id} is kept, with its last epoch; go on: cars worker --queues train, then "
            f"cars training {run.id}; end it: cars training {run.id} --cancel"
        )
        raise


def _see_to_work(client: Client, worker: LocalWorker) -> None:
    """Start the local worker when nobody else is alive (any more); raises WorkerFailed when it has gone away."""
    if not worker.running() and not anyone_trains(client):
        worker.start()


def training(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the run.")] = False,
    form: FormatOption = None,
) -> None:
    """Show a training run, on a terminal live until it ends; without RUN, list all."""
    with session(ctx).client() as client:
        if run is None:
            if cancel:
                raise typer.BadParameter("--cancel needs the id of a run")
            if not print_rows(client.trainings(), _ROWS, form):
                notice("no training runs yet; make one: cars train DATASET")
            return
        found = client.training(run)
        if cancel:
            status = found.cancel()
            ended = RunState(status["state"]).terminal
            notice(f"training run {run} {status['state'] if ended else 'ends within a step'}")
            return
        if form is None and sys.stdout.isatty() and sys.stderr.isatty():
            _follow(found, watch=lambda: None)
        print_record(found.status(), form or (None if sys.stdout.isatty() else Format.JSON), columns=_RECORD)


def _follow(run: Training, *, watch: Callable[[], None]) -> Status:
    """Wait for the run and show how far it is; returns its last status. What `watch` raises ends the wait."""
    next_watch = time.monotonic() + _WATCH_SECONDS
    with _display(run.id) as display:
        while True:
            status = outlasting(run.status, notice)
            display.show(status)
            if RunState(status["state"]).terminal:
                return status
            if time.monotonic() >= next_watch:
                next_watch = time.monotonic() + _WATCH_SECONDS
                with suppress(DatabaseUnavailable):  # the next look at the status waits for it
                    watch()
            time.sleep(_POLL_SECONDS)


def _finish(ended: Status) -> None:
    """Say how a run ended and leave, unless it has a version, with the exit code 1."""
    for note in ended["notes"]:
        notice(note)
    if ended["state"] == RunState.FAILED:
        error(f"the training failed: {ended['error']}")
        raise typer.Exit(1)
    notice(outcome(ended))
    if ended["state"] == RunState.CANCELED:
        raise typer.Exit(1)


class _Display(Protocol):
    def show(self, status: Status) -> None: ...


def _display(run_id: str) -> AbstractContextManager[_Display]:
    return RunBar() if sys.stderr.isatty() else nullcontext(_Lines(run_id))


class _Lines:
    """For logs: a line for every stage and every epoch, and for one within a long epoch now and then."""

    SECONDS = 30.0

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._shown: tuple[Any, ...] = ()
        self._next = 0.0

    def show(self, status: Status) -> None:
        where = (doing(status), status["epoch"] if status["stage"] == "training" else None)
        if RunState(status["state"]).terminal or (where == self._shown and time.monotonic() < self._next):
            return
        self._shown, self._next = where, time.monotonic() + self.SECONDS
        detail = f": {figures(status)}" if status["stage"] == "training" else ""
        notice(f"training run {self._run_id}: {doing(status)}{detail}")
