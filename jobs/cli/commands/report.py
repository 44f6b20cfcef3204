"""The command about looking at a job: report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.context import dependencies
from jobs.cli.output.formats import notice
from jobs.disk import check_writable
from jobs.errors import OutputError

if TYPE_CHECKING:
    from jobs.cli.context import JobHandle

__all__ = ["check_report", "report", "write_report"]

IMAGES = 200


def report(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.html", help="The file to write.")],
    images: Annotated[int, typer.Option("--photos", min=0, max=2_000, help="At most so many images in it.")] = IMAGES,
) -> None:
    """Write a job's report: one HTML file with charts and images, which opens without a network and can be mailed."""
    check_report(output, "--output")
    with dependencies(ctx).client() as client:
        write_report(client.job(job), output, images=images)


def check_report(file: Path | None, option: str) -> None:
    """Refuse, before any work, a file that could not be written at its end."""
    if file is None:
        return
    if file.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{file}: the name must end in .html", param_hint=option)
    if wrong := check_writable(file.absolute().parent):
        raise OutputError(f"{file} cannot be written: {wrong}")


def write_report(job: "JobHandle", file: Path, *, images: int = IMAGES) -> None:
    """Write the report and say what is in it."""
    written = job.report(file, images=images)
    notice(f"report written to {file}, with {written.images:,} images")
    if written.note:
        notice(written.note)
