"""Commands about training: train, training."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.context import LocalWorker, dependencies
from jobs.cli.output.formats import Format, FormatOption, error, notice, print_record, print_rows
from jobs.cli.output.progress import follow_run
from jobs.cli.output.table import Column, moment, percent, times
from jobs.cli.signals import Terminated, terminable
from jobs.errors import WorkerFailed
from jobs.progress import run_outcome, run_speed
from jobs.records import Json, TrainingStatus
from jobs.states import RunState
from jobs.workers import anyone_trains

if TYPE_CHECKING:
    from jobs.cli.context import CommandClient, RunHandle

__all__ = ["train", "training"]

_PATIENCE = 20.0  # seconds a local worker gets to release its run


class Recipe(StrEnum):
    DISTILL = "distill"  # from a teacher's answers
    FINETUNE = "finetune"  # from a published version
    ORIGINAL = "original"  # as the original work, from ImageNet weights
    SCRATCH = "scratch"  # from random weights


def _epochs(status: TrainingStatus) -> str:
    return f"{status.epoch}/{status.epochs}" if status.epochs else ""


def _top1(numbers: Json | None) -> str:
    return f"{numbers['top1']:.2%}" if numbers else ""


_ROWS: tuple[Column[TrainingStatus], ...] = (
    Column("id"),
    Column("state"),
    Column("recipe"),
    Column("epoch", show=_epochs, right=True),
    Column("accuracy", show=percent("accuracy"), right=True),
    Column("model_version"),
    Column("live", show=lambda status: "promoted" if status.promoted else ""),
    Column("created", show=moment("created_at")),
    Column("dataset", shrinks="to end"),
)
_RECORD: tuple[Column[TrainingStatus], ...] = (
    *(Column(name) for name in ("id", "state", "stage", "error", "reason", "model_version", "promoted")),
    *(Column(name) for name in ("dataset", "recipe", "init")),
    Column("epoch", show=_epochs),
    *(Column(name) for name in ("train_loss", "valid_loss")),
    Column("accuracy", show=percent("accuracy")),
    Column("rate", show=run_speed),
    Column("candidate", show=lambda status: _top1(status.candidate)),
    Column("production", show=lambda status: _top1(status.production)),
    Column("notes", show=lambda status: "; ".join(status.notes)),
    *times("created", "started", "finished"),
)


def train(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Labelled images: a folder per class, a CSV, the Stanford devkit.")],
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
        float, typer.Option(help="Promote only if top-1 is higher by this fraction (0.01: one point).")
    ] = 0.0,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever it is worth.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Whether it may be promoted by itself.")
    ] = True,
    min_photos: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Leave out classes with fewer images to learn from; the run lists them."),
    ] = None,
    other: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Images that show no car, with labels.csv: file, what, split.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and random numbers.")] = 0,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; runs a training worker of its own when none is alive.")
    ] = False,
) -> None:
    """Train on labelled images, publish, evaluate beside production, promote what is better; print its id."""
    outside = dependencies(ctx)
    with terminable(), outside.client() as client:
        worker = outside.training_worker()
        try:
            if wait:
                _see_to_work(client, worker)  # before the run, so that nothing is enqueued where nobody can train
            run = client.train(
                dataset,
                recipe=recipe.value,
                init=init,
                teacher=teacher,
                epochs=epochs,
                min_gain=min_gain,
                force=force,
                promote=promote,
                min_photos=min_photos,
                other=other,
                seed=seed,
            )
            typer.echo(run.id)
            sys.stdout.flush()
            if wait:
                _finish(_wait(run, client, worker))
            elif not anyone_trains(client.workers()):
                notice("no training worker is alive; start one: cars worker --queues train")
        finally:
            worker.stop(patience=_PATIENCE)


def _wait(run: RunHandle, client: CommandClient, worker: LocalWorker) -> TrainingStatus:
    try:
        return follow_run(run, watch=lambda: _see_to_work(client, worker))
    except (KeyboardInterrupt, Terminated, WorkerFailed):
        notice(
            f"training run {run.id} is kept, with its last epoch; to continue: cars worker --queues train, then "
            f"cars training {run.id}; end it: cars training {run.id} --cancel"
        )
        raise


def _see_to_work(client: CommandClient, worker: LocalWorker) -> None:
    """Start the local worker when no other is alive (any more); raise WorkerFailed when it has ended by itself."""
    if not worker.running() and not anyone_trains(client.workers()):
        worker.start()


def training(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the run.")] = False,
    form: FormatOption = None,
) -> None:
    """Show a training run, on a terminal live until it ends; without RUN, list all."""
    with dependencies(ctx).client() as client:
        if run is None:
            if cancel:
                raise typer.BadParameter("--cancel needs the id of a run")
            if not print_rows(client.trainings(), _ROWS, form):
                notice("no training runs yet; make one: cars train DATASET")
            return
        found = client.training(run)
        if cancel:
            status = found.cancel()
            notice(f"training run {run} {status.state if status.state.terminal else 'ends within a step'}")
            return
        if form is None and sys.stdout.isatty() and sys.stderr.isatty():
            follow_run(found, watch=lambda: None)
        print_record(found.status(), form or (None if sys.stdout.isatty() else Format.JSON), columns=_RECORD)


def _finish(ended: TrainingStatus) -> None:
    """Say how a run ended and, unless it has a version, exit with 1."""
    for note in ended.notes:
        notice(note)
    if ended.state is RunState.FAILED:
        error(f"the training failed: {ended.error}")
        raise typer.Exit(1)
    notice(run_outcome(ended))
    if ended.state is RunState.CANCELED:
        raise typer.Exit(1)
