"""One job: how far it is, and its images as a gallery, filtered and paged by key; thumbnails are made on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from jobs.errors import LabelNotFound, SettingsInvalid
from jobs.states import Decision, ImageFailure, ImageStatus
from jobs.web.console import console_of, follows, fraction, page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobs.job import Job
    from jobs.records import Result
    from jobs.results import ResultFilters

__all__ = ["ROUTES", "thumbnail_address"]

IMAGES = 48  # on a page


def show(request: Request) -> Response:
    """Show a job and a page of its images."""
    console, name = console_of(request), request.path_params["id"]
    if follows(request):
        recent = console.recent.get(("job", name), lambda: console.client.job(name).status())
        return page(request, "job_status.html", job=recent)
    job = console.client.job(name)
    asked = {name: value for name, value in request.query_params.items() if name in _FIELDS and value}
    images: Sequence[Result] = ()
    status, message, following = 200, None, None
    try:
        images, following = _page(job, asked, after=request.query_params.get("after"))
    except (SettingsInvalid, LabelNotFound) as exc:
        status, message = 400, str(exc)
    return page(
        request,
        "job.html",
        status=status,
        job=job.status(),
        images=images,
        following=urlencode({**asked, "after": following}) if following else None,
        first=urlencode(asked) if request.query_params.get("after") else None,
        asked=asked,
        decisions=list(Decision),
        statuses=list(ImageStatus),
        message=message,
        address=thumbnail_address,
    )


_FIELDS = ("decision", "make", "status", "min_confidence", "max_confidence", "listing")


def _page(job: Job, asked: Mapping[str, str], *, after: str | None) -> tuple[Sequence[Result], str | None]:
    """Return the images of a page, and the cursor of the next. Raises SettingsInvalid, LabelNotFound."""
    wanted: ResultFilters = {
        "decision": asked.get("decision"),
        "make": asked.get("make"),
        "status": asked.get("status"),
        "listing": asked.get("listing"),
        "min_confidence": fraction(asked.get("min_confidence")),
        "max_confidence": fraction(asked.get("max_confidence")),
        "top_k": 3,
    }
    found = job.results(**wanted).page(after, limit=IMAGES)
    return found.results, found.next


def thumbnail_address(job: str, path: str) -> str:
    """Return where the thumbnail of an image is."""
    return f"/jobs/{quote(job)}/thumbnail?{urlencode({'path': path})}"


def thumbnail(request: Request) -> Response:
    """Return a JPEG of an image of a job, read through its source and encoded anew."""
    console = console_of(request)
    job = console.client.job(request.path_params["id"])
    made = console.thumbnails.get(job, request.query_params.get("path", ""))
    if isinstance(made, ImageFailure):
        return PlainTextResponse(f"{made.code}: {made.message}\n", 422)
    return Response(made, media_type="image/jpeg", headers={"cache-control": "private, max-age=300"})


ROUTES = (Route("/jobs/{id}", show, methods=["GET"]), Route("/jobs/{id}/thumbnail", thumbnail, methods=["GET"]))
