"""Commands about corrections: label, and labels import, export."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.context import dependencies
from jobs.cli.output.formats import notice
from jobs.cli.output.groups import Group

__all__ = ["group", "label"]

NewClassOption = Annotated[
    bool, typer.Option("--new-class", help="Take a class that no model version knows, instead of refusing it.")
]

group = typer.Typer(
    cls=Group,
    help="Corrections of images, which the next training learns: import, export.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def label(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="JOB:PATH as in `cars results`, or an image file.")],
    name: Annotated[str, typer.Argument(metavar="CLASS", help="What it is, such as 'Acura TL Sedan 2012'.")],
    new_class: NewClassOption = False,
) -> None:
    """Correct an image's class, for the next training to learn; its bytes are stored."""
    with dependencies(ctx).client() as client:
        client.label(image, name, new_class=new_class)
    notice(f"{image} is {name}: the next training learns it")


@group.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV with `image,label`, `job,path,label`, or what export wrote.")],
    new_class: NewClassOption = False,
) -> None:
    """Take corrections from a CSV: all of them, or with an error none."""
    with dependencies(ctx).client() as client:
        notice(f"{client.import_labels(file, new_class=new_class):,} images corrected")


@group.command("export")
def export(ctx: typer.Context, file: Annotated[Path, typer.Argument(help="The CSV to write.")]) -> None:
    """Write all corrections to a CSV."""
    with dependencies(ctx).client() as client:
        notice(f"{client.export_labels(file):,} corrections written to {file}")
