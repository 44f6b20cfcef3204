"""Schedules: what `cars schedule list` and `show` show, and what their commands do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.errors import NotPossible, SettingsInvalid, SourceError, VersionNotFound
from jobs.web.console import Form, console_of, page, posting, redirect

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ROUTES"]

_FIELDS = ("name", "source", "cron", "timezone", "every", "keep")


def show(request: Request) -> Response:
    """Show all schedules, and the form for another."""
    return _list(request)


def _list(
    request: Request, *, status: int = 200, message: str | None = None, values: Mapping[str, str] | None = None
) -> Response:
    found = console_of(request).client.schedules.list()
    return page(request, "schedules.html", status=status, schedules=found, message=message, values=values or {})


def add(request: Request, form: Form) -> Response:
    """Add a schedule."""
    values = {name: value for name in _FIELDS if (value := form.text(name)) is not None}
    try:
        console_of(request).client.schedules.add(
            values.get("name", ""),
            values.get("source", ""),
            cron=values.get("cron"),
            timezone=values.get("timezone"),
            every=values.get("every"),
            keep=_number(values.get("keep")),
        )
    except (SettingsInvalid, SourceError, NotPossible, VersionNotFound) as exc:
        return _list(request, status=400, message=str(exc), values=values)
    return redirect("/schedules")


def _number(text: str | None) -> int | None:
    """Return how many runs to keep. Raises SettingsInvalid for what is not a whole number."""
    if text is not None and not (text.isascii() and text.isdigit()):
        raise SettingsInvalid(f"the runs to keep are a whole number, not {text!r}")
    return None if text is None else int(text)


def schedule(request: Request) -> Response:
    """Show a schedule with its ledger."""
    found = console_of(request).client.schedules.show(request.path_params["name"])
    return page(request, "schedule.html", schedule=found)


def pause(request: Request, _form: Form) -> Response:
    """Let a schedule rest."""
    return _to(console_of(request).client.schedules.pause(request.path_params["name"]).name)


def resume(request: Request, _form: Form) -> Response:
    """Let a schedule continue."""
    return _to(console_of(request).client.schedules.resume(request.path_params["name"]).name)


def run(request: Request, form: Form) -> Response:
    """Make a job of a schedule now, and show it."""
    schedules = console_of(request).client.schedules
    job = schedules.run(request.path_params["name"], accept_shrink=form.text("accept_shrink") == "yes")
    return redirect(f"/jobs/{job.id}")


def ask_to_remove(request: Request) -> Response:
    """Ask whether a schedule is really to be removed."""
    found = console_of(request).client.schedules.show(request.path_params["name"])
    return page(
        request,
        "confirm.html",
        title=f"Remove {found.name}",
        text=f"{found.source} will not be classified at its times any more. The jobs that there were stay; the "
        "ledger goes.",
        action=request.url.path,
        button="Remove",
        back=f"/schedules/{found.name}",
    )


def remove(request: Request, _form: Form) -> Response:
    """Remove a schedule."""
    console_of(request).client.schedules.remove(request.path_params["name"])
    return redirect("/schedules")


def _to(name: str) -> Response:
    return redirect(f"/schedules/{name}")


ROUTES = (
    Route("/schedules", show, methods=["GET"]),
    Route("/schedules", posting(add), methods=["POST"]),
    Route("/schedules/{name}", schedule, methods=["GET"]),
    Route("/schedules/{name}/pause", posting(pause), methods=["POST"]),
    Route("/schedules/{name}/resume", posting(resume), methods=["POST"]),
    Route("/schedules/{name}/run", posting(run), methods=["POST"]),
    Route("/schedules/{name}/remove", ask_to_remove, methods=["GET"]),
    Route("/schedules/{name}/remove", posting(remove), methods=["POST"]),
)
