"""Jobs: the list, submitting one, canceling and trying again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.errors import CarClassifierError, SettingsInvalid, SourceError
from jobs.states import JobState, Priority, VersionState
from jobs.web.console import Form, console_of, follows, page, posting, redirect, whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ROUTES"]

ROWS = 50
MOST_ROWS = 500


def show(request: Request) -> Response:
    """Show the newest jobs, and a form for another."""
    return _list(request, values={}, message=None)


def _list(request: Request, *, values: Mapping[str, str], message: str | None, status: int = 200) -> Response:
    console = console_of(request)
    client = console.client
    limit = whole_number(request.query_params.get("limit"), default=ROWS, most=MOST_ROWS)
    asked = request.query_params.get("state")
    state = asked if asked in list(JobState) else None
    if follows(request):
        newest = console.recent.get(("jobs", state, limit), lambda: list(client.jobs(state=state, limit=limit)))
        return page(request, "jobs_list.html", jobs=newest, state=state)
    found = list(client.jobs(state=state, limit=limit))
    versions = [version.name for version in client.models() if version.state is not VersionState.RETIRED]
    return page(
        request,
        "jobs.html",
        status=status,
        jobs=found,
        states=list(JobState),
        state=state,
        more=limit + ROWS if len(found) == limit < MOST_ROWS else None,
        versions=versions,
        priorities=list(Priority),
        values=values,
        message=message,
    )


def submit(request: Request, form: Form) -> Response:
    """Submit a source and show the job."""
    names = ("source", "name", "model", "priority", "top_k")
    values = {name: form.text(name) or "" for name in names}
    if not values["source"]:
        return _list(request, values=values, message="write the folder or the URL that has the images", status=400)
    try:
        priority = cast('Literal["low", "normal", "high"]', values["priority"] or "normal")
        top_k = whole_number(values["top_k"], default=5, most=1000)
        job = console_of(request).client.submit(
            values["source"],
            name=values["name"] or None,
            model=values["model"] or None,
            priority=priority,
            top_k=top_k,
        )
    except (SettingsInvalid, SourceError) as exc:
        return _list(request, values=values, message=str(exc), status=400)
    return redirect(f"/jobs/{job.id}")


def cancel(request: Request, _form: Form) -> Response:
    """Stop a job."""
    return _after(request, "cancel")


def retry(request: Request, _form: Form) -> Response:
    """Continue a job with what is not ok."""
    return _after(request, "retry")


def _after(request: Request, action: Literal["cancel", "retry"]) -> Response:
    job = console_of(request).client.job(request.path_params["id"])
    try:
        job.cancel() if action == "cancel" else job.retry()
    except CarClassifierError as exc:
        return page(request, "error.html", status=409, message=str(exc))
    return redirect(f"/jobs/{quote(job.id)}")


ROUTES = (
    Route("/jobs", show, methods=["GET"]),
    Route("/jobs", posting(submit), methods=["POST"]),
    Route("/jobs/{id}/cancel", posting(cancel), methods=["POST"]),
    Route("/jobs/{id}/retry", posting(retry), methods=["POST"]),
)
