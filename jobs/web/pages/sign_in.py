"""Signing in with CARS_WEB_TOKEN, and out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from jobs.web.access import COOKIE
from jobs.web.console import Form, console_of, page, posting, redirect
from jobs.web.guard import client_address, give_session

if TYPE_CHECKING:
    from starlette.responses import Response

__all__ = ["ROUTES"]

_WRONG = "That is not the token: it is the value of CARS_WEB_TOKEN where `cars web` runs."
_LATER = "Too many wrong tokens: try again in a minute."


def show(request: Request) -> Response:
    """Ask for the token."""
    return page(request, "sign_in.html", message=None)


async def sign_in(request: Request) -> Response:
    """Give a session to whoever has the token. It has no form token: there is no session yet that one could borrow."""
    access, address = console_of(request).access, client_address(request)
    async with request.form(max_files=0, max_fields=4) as data:
        given = data.get("token")
    if not access.guesses.allowed(address):
        answer = page(request, "sign_in.html", status=429, message=_LATER)
        answer.headers["retry-after"] = "60"
        return answer
    if not isinstance(given, str) or not access.is_token(given):
        access.guesses.wrong(address)
        return page(request, "sign_in.html", status=403, message=_WRONG)
    signed_in = redirect("/")
    give_session(signed_in, access.new_session(), secure=request.url.scheme == "https")
    return signed_in


def sign_out(_request: Request, _form: Form) -> Response:
    """Let the browser forget its session."""
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


ROUTES = (
    Route("/sign-in", show, methods=["GET"]),
    Route("/sign-in", sign_in, methods=["POST"]),
    Route("/sign-out", posting(sign_out), methods=["POST"]),
)
