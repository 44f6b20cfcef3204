"""The `cars` program: its commands, its errors and its exit codes."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from jobs.cli import classify, jobs, labels, models, operations, results, training, workers
from jobs.cli.output import error
from jobs.cli.session import Session
from jobs.cli.signals import Terminated
from jobs.errors import CarClassifierError, SettingsInvalid

__all__ = ["app"]


class Commands(TyperGroup):
    """The group of all commands: what goes wrong inside one becomes a line on stderr and an exit code."""

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
            # The reader (`| head`) has seen enough; without this, Python complains when it flushes stdout at its end.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from exc
        except KeyboardInterrupt as exc:
            raise typer.Exit(130) from exc
        except Terminated as exc:
            raise typer.Exit(128 + exc.signum) from exc
        return outcome


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
    ctx.obj = ctx.obj or Session()


_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Jobs": {
        "classify": classify.classify,
        "submit": jobs.submit,
        "jobs": jobs.list_jobs,
        "status": jobs.status,
        "wait": jobs.wait,
        "cancel": jobs.cancel,
        "retry": jobs.retry,
        "delete": jobs.delete,
        "prune": jobs.prune,
    },
    "Results": {"results": results.results, "errors": results.errors},
    "Models": {
        "models": models.list_versions,
        "train": training.train,
        "training": training.training,
        "label": labels.label,
    },
    "Operations": {
        "worker": operations.worker,
        "workers": workers.list_workers,
        "beat": operations.beat,
        "migrate": operations.migrate,
        "doctor": operations.doctor,
    },
}

for _panel, _commands in _PANELS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(models.group, name="model", rich_help_panel="Models")
app.add_typer(labels.group, name="labels", rich_help_panel="Models")
