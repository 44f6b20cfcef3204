"""Which URLs may be told that a job has ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from jobs.errors import SettingsInvalid
from jobs.redaction import redacted

if TYPE_CHECKING:
    from jobs.settings import Settings

__all__ = ["Target", "check"]

_PORTS = {"https": 443, "http": 80}
_URL = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")  # what RFC 3986 allows; parsers differ over the rest


class Target(NamedTuple):
    """Where a URL leads: a request goes there, or nowhere."""

    scheme: str
    host: str  # lower case, as in the URL: no name is looked up for comparing
    port: int


def check(settings: Settings, url: str) -> Target:
    """Return where a URL leads. Raises SettingsInvalid unless CARS_NOTIFY_HOSTS has its host."""
    shown = redacted(url)
    if not _URL.fullmatch(url):
        raise SettingsInvalid(f"notify {shown!r} has characters that a URL cannot have")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise SettingsInvalid(f"notify {shown} is not a URL: write https://host/path") from exc
    if parts.scheme not in _PORTS or not parts.hostname:
        raise SettingsInvalid(f"notify {shown} must begin with https:// or http://, and name a host")
    if "@" in parts.netloc:
        raise SettingsInvalid(f"notify {shown} must have no user and no password: requests are signed instead")
    target = Target(parts.scheme, parts.hostname, _PORTS[parts.scheme] if port is None else port)
    name = f"[{target.host}]" if ":" in target.host else target.host
    fitting = [f"{name}:{target.port}"]
    if target.scheme == "https" and target.port == _PORTS["https"]:
        fitting.insert(0, name)
    if not set(fitting) & set(settings.notify_hosts):
        raise SettingsInvalid(
            f"notify {shown} leads to a host that is not listed: CARS_NOTIFY_HOSTS must have {' or '.join(fitting)}, "
            "here and on the workers"
        )
    return target
