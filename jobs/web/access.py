"""Who may come in, and from where.

On loopback without CARS_WEB_TOKEN everybody on this machine may; with it, whoever has signed in. The cookie is signed
with a key made of the token, so that it outlives a restart and no other token's. Forms carry a second value made of the
cookie (CSRF), and the Host header must name this console, so that no other site can speak for a person's browser.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from jobs.errors import SettingsInvalid

__all__ = ["COOKIE", "Access", "Guesses", "is_loopback"]

COOKIE: Final = "cars_console"
SESSION_SECONDS: Final = 12 * 3600
_LOOPBACK: Final = frozenset({"localhost"})


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches this address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK


class Guesses:
    """Limits how often a wrong token may be tried: by one address, and by all together."""

    def __init__(
        self, *, each: int = 5, altogether: int = 50, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each, self._all, self._seconds, self._clock = each, altogether, seconds, clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def allowed(self, address: str) -> bool:
        """Return whether this address may try a token now."""
        with self._lock:
            self._forget()
            return len(self._wrong.get(address, ())) < self._each and sum(map(len, self._wrong.values())) < self._all

    def wrong(self, address: str) -> None:
        """Remember a wrong token."""
        with self._lock:
            self._wrong.setdefault(address, deque(maxlen=self._each)).append(self._clock())

    def _forget(self) -> None:
        before = self._clock() - self._seconds
        for address in list(self._wrong):
            times = self._wrong[address]
            while times and times[0] <= before:
                times.popleft()
            if not times:
                del self._wrong[address]


class Access:
    """The rules of one console. Raises SettingsInvalid where other machines could come in without a token."""

    def __init__(self, *, host: str, token: str | None, hosts: tuple[str, ...]) -> None:
        if token is None and not is_loopback(host):
            raise SettingsInvalid(
                f"--host {host} can be reached from other machines: set CARS_WEB_TOKEN to a secret of 16 characters or "
                "more, with which people sign in"
            )
        self._token = token
        self._key = hashlib.sha256(b"cars console\0" + token.encode()).digest() if token else secrets.token_bytes(32)
        self._hosts = frozenset({host.lower(), *_LOOPBACK, *(name.lower() for name in hosts)})
        self.guesses = Guesses()

    @property
    def signs_in(self) -> bool:
        """Whether people have to sign in."""
        return self._token is not None

    def knows_host(self, header: str) -> bool:
        """Return whether a Host header names this console. Addresses may be any: only a name can be rebound to us."""
        name, _, port = header.lower().rpartition(":") if not header.endswith("]") else (header.lower(), "", "")
        if not name or not port.isdecimal():
            name = header.lower()
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in self._hosts
        return True

    def is_token(self, given: str) -> bool:
        """Return whether this is the token, in time that does not depend on how much of it is right."""
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def new_session(self) -> str:
        """Return the value of a new cookie."""
        text = f"{int(time.time()) + SESSION_SECONDS}.{secrets.token_urlsafe(16)}"
        return f"{text}.{self._signature('session', text)}"

    def is_session(self, cookie: str | None) -> bool:
        """Return whether a cookie is one of this console's, and has not expired."""
        text, _, signature = (cookie or "").rpartition(".")
        expires = text.partition(".")[0]
        genuine = hmac.compare_digest(signature.encode(), self._signature("session", text).encode())
        return genuine and expires.isdecimal() and int(expires) > time.time()

    def form_token(self, cookie: str) -> str:
        """Return what the forms of a session carry."""
        return self._signature("form", cookie)

    def is_form_token(self, given: str, cookie: str) -> bool:
        """Return whether a form is one that this session has been shown."""
        return hmac.compare_digest(given.encode(), self.form_token(cookie).encode())

    def _signature(self, what: str, text: str) -> str:
        return hmac.new(self._key, f"{what}\0{text}".encode(), hashlib.sha256).hexdigest()
