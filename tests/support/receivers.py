"""A server that is told of the ends of jobs: it answers as a test tells it, and remembers what it got."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

__all__ = ["SECRET", "Receiver", "Request"]

SECRET = "whsec_" + "c2VjcmV0IGJ5dGVzIGZvciB0aGUgdGVzdHMgb25seQ=="
Answer = int | Callable[[], int]


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self) -> Any:
        """Return the body as an object; raises what `standardwebhooks` does for a signature that is not valid."""
        Webhook(SECRET).verify(self.body, dict(self.headers))
        return json.loads(self.body)


class Receiver:
    """Answers requests with `answers` in turn, the last one for ever; one that is called may wait."""

    def __init__(self, *answers: Answer, headers: Mapping[str, str] | None = None) -> None:
        self.requests: list[Request] = []
        answers_left = list(answers)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                names = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append(Request(self.path, names, body))
                answer = answers_left.pop(0) if len(answers_left) > 1 else answers_left[0]
                self.send_response(answer if isinstance(answer, int) else answer())
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the other side has gone
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def host(self) -> str:
        """As CARS_NOTIFY_HOSTS lists it."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/hook?token=t"

    @property
    def env(self) -> dict[str, str]:
        return {"CARS_NOTIFY_HOSTS": self.host, "CARS_NOTIFY_SECRET": SECRET}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
