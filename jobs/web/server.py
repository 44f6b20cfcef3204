"""The console as a process: uvicorn, which serves until it is asked to end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import uvicorn

from jobs.errors import OutputError
from jobs.web.app import make
from jobs.web.connections import Connection

if TYPE_CHECKING:
    from types import FrameType

    from jobs.client import Client

__all__ = ["serve"]

MOST_CONNECTIONS = 500  # more are told to come again
GRACE_SECONDS = 5


def serve(client: Client, *, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` gets the port. Raises SettingsInvalid, the
    errors of the database, OutputError where it is taken.
    """
    app = make(client, host=host)
    _ = client.database  # migrated or checked now, and not by several requests at once
    listener = _listener(host, port)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address that a client names itself would be free to guess tokens
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        http=Connection,
        ws="none",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # uvicorn, too, ends by it, once it has finished what it had in hand
    with listener:
        ready(listener.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listener])


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as exc:
        raise OutputError(f"{host}:{port} cannot be listened on: {exc.strerror}; choose another --port") from exc
    return listener
