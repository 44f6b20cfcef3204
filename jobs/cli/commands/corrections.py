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

AuthorOption = Annotated[str | None, typer.Option(metavar="NAME", help="Whose word it is; default: the login name.")]

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
    name: Annotated[
        str | None,
        typer.Argument(metavar="CLASS", help="What it is, such as 'Acura TL Sedan 2012'.", show_default=False),
    ] = None,
    new_class: NewClassOption = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the image's correction.")] = False,
    author: AuthorOption = None,
) -> None:
    """Correct an image's class, for the next training to learn; its bytes are stored."""
    if remove is not (name is None):
        raise typer.BadParameter("give the CLASS that the image shows, or --remove to remove its correction")
    with dependencies(ctx).client() as client:
        if name is None:
            taken = client.corrections.remove(image)
            notice(f"{image} is not corrected any more (it was {taken.label})")
            return
        client.label(image, name, new_class=new_class, author=author)
    notice(f"{image} is {name}: the next training learns it")


@group.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV with `image,label`, `job,path,label`, or what export wrote.")],
    new_class: NewClassOption = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Take the lines that can be used, and list the others.")
    ] = False,
    author: AuthorOption = None,
) -> None:
    """Take corrections from a CSV: all of them, or with an error none."""
    with dependencies(ctx).client() as client:
        done = client.corrections.import_file(file, new_class=new_class, skip_bad=skip_bad, author=author)
    for line in done.bad:
        notice(line)
    left = f"; lines left out: {len(done.bad):,}" if done.bad else ""
    notice(f"{done.taken:,} images corrected{left}")


@group.command("export")
def export(ctx: typer.Context, file: Annotated[Path, typer.Argument(help="The CSV to write.")]) -> None:
    """Write all corrections to a CSV."""
    with dependencies(ctx).client() as client:
        notice(f"{client.export_labels(file):,} corrections written to {file}")
