"""Commands about model versions: models; model show, promote, rollback, history, import, export, retire, evaluate."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.context import dependencies
from jobs.cli.output.formats import Format, FormatOption, RecordFormatOption, notice, print_record, print_rows
from jobs.cli.output.groups import Group
from jobs.cli.output.table import Column, moment, percent, plain
from jobs.disk import check_writable
from jobs.errors import OutputError
from jobs.records import Json, ModelVersion, Promotion

__all__ = ["group", "list_versions"]

NameArgument = Annotated[str, typer.Argument(metavar="VERSION", help="Name of a model version.", show_default=False)]

group = typer.Typer(
    cls=Group,
    help="One model version: show, promote, roll back, import, export, retire.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


_MIXES = ("two_makes", "with_samples", "samples_alone")
_VERSIONS: tuple[Column[ModelVersion], ...] = (
    Column("name"),
    Column("live", show=lambda version: "production" if version.production else "", style=lambda _: "green"),
    Column("state"),
    Column("top1", show=percent("top1"), right=True),
    Column("created", show=moment("created_at")),
    Column("registered", show=moment("registered_at")),
)
_HISTORY: tuple[Column[Promotion], ...] = (
    Column("model_version"),
    Column("from", show=moment("since")),
    Column("until", show=lambda row: moment("until")(row) or "now"),
    Column("reason"),
)


def _facts(card: Json, prefix: str = "") -> Iterator[Column[Json]]:
    """A column for each fact of a card, `metrics.top1` and so on; of a list only how long it is."""
    for name, value in card.items():
        if name == "class_parts":
            makes = {parts["make"] for parts in value.values()}
            yield Column(prefix + name, show=_always(f"{len(value)} of them, makes: {len(makes)}"))
        elif isinstance(value, dict):
            yield from _facts(value, f"{prefix}{name}.")
        else:
            long = isinstance(value, list) and len(value) > 5
            yield Column(prefix + name, show=_always(f"{len(value)} of them" if long else plain(value)))


def _always(text: str) -> Callable[[Json], str]:
    return lambda _: text


def list_versions(ctx: typer.Context, form: FormatOption = None) -> None:
    """List the model versions that can be used."""
    with dependencies(ctx).client() as client:
        if not print_rows(client.models(), _VERSIONS, form):
            notice("no model version is registered; cars migrate registers the bundled one")


@group.command("show")
def show(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Name of a model version.")] = "production",
    form: RecordFormatOption = None,
) -> None:
    """Show the card of a version: classes, accuracy, thresholds, recipe, data."""
    with dependencies(ctx).client() as client:
        card = client.model_card(version)
        print_record(card, form, columns=list(_facts(card)))


@group.command("promote")
def promote(ctx: typer.Context, version: NameArgument) -> None:
    """Make a version the one that new jobs use; running jobs keep theirs."""
    with dependencies(ctx).client() as client:
        client.promote(version)
    notice(f"{version} is in production for new jobs; to undo: cars model rollback")


@group.command("rollback")
def rollback(ctx: typer.Context) -> None:
    """Go back to the version that was in production before, and print its name."""
    with dependencies(ctx).client() as client:
        typer.echo(client.rollback())


@group.command("history")
def history(ctx: typer.Context, form: FormatOption = None) -> None:
    """Show which version was in production when."""
    with dependencies(ctx).client() as client:
        print_rows(client.history(), _HISTORY, form)


@group.command("import")
def import_(
    ctx: typer.Context,
    folder: Annotated[str, typer.Argument(help="A published version: card.json, weights, ONNX graph.")],
) -> None:
    """Check a version from a folder and add it to the registry."""
    from jobs.requirements import require_model_packages

    require_model_packages()
    dependencies(ctx).become(["import", "--", folder])


@group.command("export")
def export(
    ctx: typer.Context,
    version: NameArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder for its files.")],
) -> None:
    """Write a version's files to a folder, which model import takes elsewhere."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is there already: give the name of a new folder")
    if wrong := check_writable(output.absolute().parent):
        raise OutputError(f"{output} cannot be written: {wrong}")
    from jobs.requirements import require_model_packages

    require_model_packages()
    dependencies(ctx).become(["export", "--", version, str(output)])


@group.command("retire")
def retire(
    ctx: typer.Context,
    version: NameArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
) -> None:
    """Take a version out of use for new jobs; its card and files stay, and jobs that have it keep it."""
    with dependencies(ctx).client() as client:
        client.retire(version, undo=undo)
    notice(
        f"{version} can be used again" if undo else f"{version} is retired; to undo: cars model retire --undo {version}"
    )


@group.command("evaluate")
def evaluate(
    ctx: typer.Context,
    version: NameArgument,
    dataset: Annotated[str, typer.Argument(help="Labelled images: a folder per class, a CSV, the Stanford devkit.")],
    split: Annotated[str, typer.Option(help="train, calibration, holdout or all.")] = "all",
    other: Annotated[str | None, typer.Option(help="Images that show no car: a folder with labels.csv.")] = None,
    form: RecordFormatOption = None,
) -> None:
    """Evaluate a version on labelled images: accuracy, calibration, decisions, loose framing (in full as JSON)."""
    if split not in ("train", "calibration", "holdout", "all"):
        raise typer.BadParameter(f"{split!r}: choose of train, calibration, holdout, all", param_hint="--split")
    from jobs.requirements import require_model_packages

    require_model_packages()
    options = ["--split", split, *(["--other", other] if other else [])]
    _print_evaluation(dependencies(ctx).ask(["evaluate", *options, "--", version, dataset]), form)


def _print_evaluation(found: Json, form: Format | None) -> None:
    """Print one object; on a terminal its numbers, and below them tables of what has several."""
    print_record(found, form, columns=_columns(k for k, value in found.items() if not isinstance(value, list | dict)))
    if (form or (Format.TABLE if sys.stdout.isatty() else Format.JSON)) is not Format.TABLE:
        return
    typer.echo("\nas framing loosens (area: the fraction of the frame that the car's own image covers)")
    print_rows(found["framing"], _columns(found["framing"][0]), form)
    typer.echo("\nverdicts on listings made of these images (second shots: with another crop and light of each)")
    print_rows(found["listings"]["sets"], _columns(found["listings"]["sets"][0]), form)
    mixes = [
        {"listing": kind.replace("_", " ")} | found["listings"][kind] for kind in _MIXES if found["listings"][kind]
    ]
    print_rows(mixes, _columns(mixes[0] if mixes else ()), form)
    if ood_images := found.get("ood_images"):
        typer.echo("\nimages that show no car of the classes")
        columns = ["split", "images", "rejected", "decided_model", "decided_make", "model_fraction"]
        rows = [{"split": split} | numbers for split, numbers in ood_images.items()]
        print_rows(rows, _columns(columns), form)


def _columns(names: Iterable[str]) -> list[Column[Json]]:
    return [Column(name) for name in names]
