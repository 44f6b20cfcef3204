"""A small web server that answers `/metrics` and `/healthz` and nothing else."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from jobs.errors import OutputError, SettingsInvalid
from jobs.metrics import CONTENT_TYPE_LATEST
from jobs.web.access import is_loopback

if TYPE_CHECKING:
    from jobs.metrics import Exposition

__all__ = ["make"]

_Start = Callable[[str, list[tuple[str, str]]], Any]
SECONDS = 10.0  # for one request: a client that sends nothing is not waited for


class _Handler(WSGIRequestHandler):
    timeout = SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: scrapes come every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def make(exposition: Exposition, *, host: str, port: int, token: str | None) -> WSGIServer:
    """Return a server that listens, on loopback or with a token that `/metrics` asks for. Raises SettingsInvalid,
    OutputError where the port is taken.
    """
    loopback = is_loopback(host)
    if not loopback and token is None:
        raise SettingsInvalid(
            f"--host {host} can be reached from other machines: set CARS_WEB_TOKEN to a secret of 16 or more "
            "characters, which a scraper then sends as its bearer token"
        )
    expected = None if loopback else f"Bearer {token}".encode()

    def answer(environ: dict[str, Any], start: _Start) -> Iterable[bytes]:
        plain = [("Content-Type", "text/plain; charset=utf-8")]
        match environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"):
            case "GET", "/healthz":
                start("200 OK", plain)
                return [b"ok\n"]
            case "GET", "/metrics":
                given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1")
                if expected is not None and not hmac.compare_digest(given, expected):
                    start("401 Unauthorized", [*plain, ("WWW-Authenticate", "Bearer")])
                    return [b"send CARS_WEB_TOKEN as the bearer token\n"]
                start("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
                return [exposition.text()]
        start("404 Not Found", plain)
        return [b"there are /metrics and /healthz\n"]

    try:
        return make_server(host, port, answer, server_class=_Server, handler_class=_Handler)
    except OSError as exc:
        raise OutputError(f"{host}:{port} cannot be listened on: {exc.strerror}; choose another --port") from exc
