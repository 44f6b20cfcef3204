"""What programs ask the console: whether it lives, and its metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from jobs.metrics import CONTENT_TYPE_LATEST
from jobs.web.console import console_of
from jobs.web.guard import client_address

__all__ = ["ROUTES"]


def health(_request: Request) -> Response:
    """Say that the process answers."""
    return PlainTextResponse("ok\n")


def metrics(request: Request) -> Response:
    """Return the metrics; where people sign in, whoever has no session sends the token as a bearer."""
    console = console_of(request)
    if console.access.signs_in and not request.scope.get("cars_session"):
        address = client_address(request)
        if not console.access.guesses.allowed(address):
            return PlainTextResponse("too many wrong tokens\n", 429, headers={"retry-after": "60"})
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not console.access.is_token(token):
            if token:
                console.access.guesses.wrong(address)
            headers = {"www-authenticate": "Bearer"}
            return PlainTextResponse("send CARS_WEB_TOKEN as the bearer token\n", 401, headers=headers)
    return Response(console.exposition.text(), media_type=CONTENT_TYPE_LATEST)


ROUTES = (Route("/healthz", health), Route("/metrics", metrics))
