"""The `cars` program: its commands, its errors and its exit codes."""

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from jobs.cli.context import Dependencies
from jobs.cli.output.formats import error
from jobs.cli.signals import Terminated
from jobs.errors import CarClassifierError, SettingsInvalid

__all__ = ["app"]


class _Command(NamedTuple):
    """A command by name. Its module is imported when it runs: most of what the others need is slow to load."""

    panel: str
    module: str
    name: str  # of a function, or of a group
    help: str  # the first sentence of its docstring


COMMANDS = {
    "classify": _Command(
        "Jobs", "classify", "classify", "Classify a folder of images (or single images) and print one row per image."
    ),
    "submit": _Command(
        "Jobs", "jobs", "submit", "Submit a folder of images (or single images) as a job and print its id."
    ),
    "jobs": _Command("Jobs", "jobs", "list_jobs", "List jobs, newest first."),
    "status": _Command("Jobs", "jobs", "status", "Show how far a job is."),
    "wait": _Command(
        "Jobs", "jobs", "wait", "Wait for a job to end, with its progress; exits 1 when it failed or was canceled."
    ),
    "cancel": _Command(
        "Jobs", "jobs", "cancel", "Cancel a job; results it has already are kept. Canceling again is harmless."
    ),
    "retry": _Command(
        "Jobs",
        "jobs",
        "retry",
        "Continue an ended job: whatever is not ok, failed and canceled images, and a listing that was not finished.",
    ),
    "delete": _Command(
        "Jobs", "jobs", "delete", "Delete a job that has ended, with every prediction that no other job refers to."
    ),
    "prune": _Command(
        "Jobs", "jobs", "prune", "Delete jobs that ended long ago, with every prediction that no other job refers to."
    ),
    "schedule": _Command(
        "Jobs",
        "schedules",
        "group",
        "Classify a folder again and again: add, list, show, pause, resume, run, remove.",
    ),
    "results": _Command("Results", "results", "results", "Show results, one row per image, of one job or of all."),
    "summary": _Command(
        "Results",
        "results",
        "summary",
        "Sum up finished images, of one job or of all: how many, how sure the model is, and what share is decided.",
    ),
    "errors": _Command(
        "Results",
        "results",
        "errors",
        "Show the images of a job that failed, and why; and what ended the job, if it did not come to its own end.",
    ),
    "retag": _Command(
        "Results",
        "retag",
        "retag",
        "Tag a job's source, or every source, again with a model version, and print the jobs' ids.",
    ),
    "diff": _Command(
        "Results",
        "retag",
        "diff",
        "Show the images and listings of a job of which two model versions say different things.",
    ),
    "report": _Command(
        "Results",
        "report",
        "report",
        "Write a job's report: one HTML file with charts and images, which opens without a network and can be mailed.",
    ),
    "listings": _Command(
        "Results",
        "listings",
        "list_listings",
        "Show the verdicts on listings, one row per listing, of one job or of the current run of each source.",
    ),
    "listing": _Command("Results", "listings", "listing", "Show the verdict on one listing, with its images."),
    "duplicates": _Command(
        "Results",
        "listings",
        "duplicates",
        "Show the images that occur, byte for byte, in several listings of a job.",
    ),
    "models": _Command("Models", "models", "list_versions", "List the model versions that can be used."),
    "model": _Command(
        "Models", "models", "group", "One model version: show, promote, roll back, import, export, retire."
    ),
    "train": _Command(
        "Models",
        "training",
        "train",
        "Train on labelled images, publish, evaluate beside production, promote what is better; print its id.",
    ),
    "training": _Command(
        "Models",
        "training",
        "training",
        "Show a training run, on a terminal live until it ends; without RUN, list all.",
    ),
    "label": _Command(
        "Models",
        "corrections",
        "label",
        "Correct an image's class, for the next training to learn; its bytes are stored.",
    ),
    "labels": _Command(
        "Models", "corrections", "group", "Corrections of images, which the next training learns: import, export."
    ),
    "worker": _Command(
        "Operations",
        "operations",
        "worker",
        "Work on jobs until it is stopped (Ctrl-C or SIGTERM: finishes what it has in hand).",
    ),
    "workers": _Command(
        "Operations", "workers", "list_workers", "List the workers of the last week: where they run, and what they do."
    ),
    "web": _Command(
        "Operations", "web", "web", "Serve the web console, with the demo, until it is stopped; needs the extra web."
    ),
    "metrics": _Command(
        "Operations", "metrics", "metrics", "Serve metrics for Prometheus at /metrics until it is stopped."
    ),
    "beat": _Command(
        "Operations", "operations", "beat", "Tick the schedules until it is stopped; any number of them is harmless."
    ),
    "migrate": _Command(
        "Operations",
        "operations",
        "migrate",
        "Bring the database to this release and register the bundled model version.",
    ),
    "doctor": _Command(
        "Operations", "operations", "doctor", "Check that this machine is ready to work; exits 1 when something is not."
    ),
}


class _Loading(Mapping[str, Any]):
    """The commands by name, each made when it is asked for."""

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __getitem__(self, name: str) -> Any:
        known = COMMANDS[name]
        found = getattr(import_module(f"jobs.cli.commands.{known.module}"), known.name)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name)(found)
            found = alone
        command = get_command(found)
        command.name = name
        return command


class Commands(TyperGroup):
    """The group of all commands: what goes wrong inside one becomes a line on stderr and an exit code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Loading()  # type: ignore[assignment]  # it is only read

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        for panel in dict.fromkeys(command.panel for command in COMMANDS.values()):
            with formatter.section(panel):
                formatter.write_dl([(name, known.help) for name, known in COMMANDS.items() if known.panel == panel])

    def invoke(self, ctx: Any) -> Any:
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()
        except CarClassifierError as exc:
            if ctx.params.get("debug"):
                traceback.print_exception(exc)
            error(str(exc))
            raise typer.Exit(2 if isinstance(exc, SettingsInvalid) else 1) from exc
        except BrokenPipeError as exc:
            _abandon_stdout()  # the reader (`| head`) has seen enough
            raise typer.Exit(0) from exc
        except KeyboardInterrupt as exc:
            raise typer.Exit(130) from exc
        except Terminated as exc:
            raise typer.Exit(128 + exc.signum) from exc
        except OSError as exc:
            if ctx.params.get("debug"):
                traceback.print_exception(exc)
            reason = "its disk is full" if exc.errno == errno.ENOSPC else exc.strerror or str(exc)
            error(f"{exc.filename or 'the output'} cannot be used: {reason}; where that was: cars --debug COMMAND")
            _abandon_stdout()
            raise typer.Exit(1) from exc
        return outcome


def _abandon_stdout() -> None:
    """What is left goes nowhere; without this, Python complains when it flushes stdout at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"cars {version('car-classifier')}")
        except PackageNotFoundError:
            typer.echo("cars (not installed)")
        raise typer.Exit()


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes as long to load as all the rest
    epilog=(
        "Data goes to stdout, progress and notices to stderr. "
        "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 with --strict: done, but some images failed."
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,  # noqa: ARG001
) -> None:
    """Classify car photos: a folder of images in, rows in a SQL database out."""
    ctx.obj = ctx.obj or Dependencies()
