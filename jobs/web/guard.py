"""What stands before every page: the Host header, signing in, other sites' requests, and the headers of each answer."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from jobs.web.access import COOKIE, SESSION_SECONDS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from jobs.web.access import Access

__all__ = ["Guard", "client_address", "give_session"]

_OPEN = ("/healthz", "/sign-in", "/static/")  # without signing in; `/metrics` takes the token itself
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Let through what may come in, with its session in `scope["cars_session"]`."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        cookie = request.cookies.get(COOKIE)
        known = self._access.is_session(cookie)
        session = cookie if known and cookie else ""
        new = not session and not self._access.signs_in
        if new:
            session = self._access.new_session()
        scope["cars_session"] = session
        refusal = self._refusal(request, signed_in=bool(session))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if new and refusal is None:
                    headers.append("set-cookie", _cookie(session, secure=request.url.scheme == "https"))
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request, *, signed_in: bool) -> Response | None:
        """Return the answer to what may not come in; None for what may."""
        if not self._access.knows_host(request.headers.get("host", "")):
            return PlainTextResponse("this console has another name: CARS_WEB_HOSTS lists those it answers to\n", 421)
        if request.method not in ("GET", "HEAD") and not _is_same_site(request):
            return PlainTextResponse("this form comes from another site\n", 403)
        path = request.url.path
        if signed_in or path == "/metrics" or path.startswith(_OPEN):
            return None
        if request.method == "GET" and "hx-request" not in request.headers:
            return RedirectResponse("/sign-in", 303)
        return PlainTextResponse("sign in first\n", 401)


def _is_same_site(request: Request) -> bool:
    """Return whether a browser says that a form is of a page of ours; what is not a browser says nothing."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def give_session(response: Response, session: str, *, secure: bool) -> None:
    """Let the browser keep a session."""
    response.headers.append("set-cookie", _cookie(session, secure=secure))


def _cookie(session: str, *, secure: bool) -> str:
    kept = f"Max-Age={SESSION_SECONDS}; Path=/; HttpOnly; SameSite=Strict"
    return f"{COOKIE}={session}; {kept}{'; Secure' if secure else ''}"


def client_address(request: Request) -> str:
    """Return the address of whoever asks."""
    return request.client.host if request.client else ""
