"""The program of the console: routes, errors, and what starts and ends with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from jobs.errors import (
    CarClassifierError,
    DatabaseError,
    KeyInUse,
    NotFound,
    NotPossible,
    PreviewUnavailable,
    SettingsInvalid,
    SourceError,
)
from jobs.preview import Preview
from jobs.report.page import environment
from jobs.web.access import Access
from jobs.web.bodies import BoundedBodies
from jobs.web.console import Console, page
from jobs.web.guard import Guard
from jobs.web.pages import (
    demo,
    gallery,
    jobs,
    listings,
    models,
    monitoring,
    schedules,
    sign_in,
    training,
    workers,
)
from jobs.web.recent import Recent
from jobs.web.thumbnails import Thumbnails

if TYPE_CHECKING:
    from starlette.requests import Request

    from jobs.client import Client

__all__ = ["ROUTES", "make"]

FORM_BYTES = 256 << 10  # of a form without a file
FORM_SECONDS = 60.0  # for all of what a browser sends
_FILES = Path(__file__).parent / "static"
_STATUS: tuple[tuple[type[CarClassifierError], int], ...] = (
    (NotFound, 404),
    (NotPossible, 409),
    (KeyInUse, 409),
    (SettingsInvalid, 400),
    (SourceError, 400),
    (DatabaseError, 503),
    (PreviewUnavailable, 503),
)
ROUTES: tuple[Route, ...] = (
    *demo.ROUTES,
    *jobs.ROUTES,
    *gallery.ROUTES,
    *listings.ROUTES,
    *models.ROUTES,
    *training.ROUTES,
    *schedules.ROUTES,
    *workers.ROUTES,
    *monitoring.ROUTES,
    *sign_in.ROUTES,
)


def make(client: Client, *, host: str, form_seconds: float = FORM_SECONDS) -> Starlette:
    """Return the program that serves this client's database on `host`; its end ends the child processes, not the
    client. Raises SettingsInvalid where other machines could come in without a token.
    """
    settings = client.settings
    access = Access(host=host, token=settings.web_token, hosts=settings.web_hosts)
    console = Console(client, access, Thumbnails(settings), Preview(settings), client.metrics(), Recent())

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(console.thumbnails.close)
        await run_in_threadpool(console.demo.close)

    def most_bytes(path: str) -> int:
        return settings.max_file_bytes + FORM_BYTES if path == "/" else FORM_BYTES

    app = Starlette(
        routes=[*ROUTES, Route("/static/look.css", _look), Mount("/static", StaticFiles(directory=_FILES))],
        middleware=[
            Middleware(BoundedBodies, most_bytes=most_bytes, seconds=form_seconds),
            Middleware(Guard, access=access),
        ],
        exception_handlers={HTTPException: _refused, CarClassifierError: _failed},
        lifespan=lifespan,
    )
    app.state.console = console
    return app


def _look(_request: Request) -> Response:
    """Return the style that pages share with the report."""
    style = environment().get_template("look.css").render()
    return Response(style, media_type="text/css", headers={"cache-control": "public, max-age=300"})


def _refused(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    text = "there is no such page" if exc.status_code == 404 else exc.detail
    return page(request, "error.html", status=exc.status_code, message=text)


def _failed(request: Request, exc: Exception) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)
    return page(request, "error.html", status=status, message=str(exc))
