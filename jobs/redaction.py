"""URLs as they may be displayed: without the passwords and tokens in them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

__all__ = ["redacted"]

_HARMLESS = re.compile(
    "application_name|connect_timeout|endpoint_url|host|mode|options|port|region|sslmode|ssl_cert_reqs|sslrootcert|"
    "target_session_attrs|timeout|uri|versionid|virtual_host"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
_PASSWORD = re.compile(r"(?<=://)([^:?#]*):[^?#]*@")
_PARAMETER = re.compile(r"([?&;#])([^=&;#?]*)=([^&;#]*)")


def redacted(url: str | URL) -> str:
    """Return the URL with `***` for its password and for the value of every parameter that is not known to be harmless.

    A text that is not a URL, such as a path, stays as it is.
    """
    text = url if isinstance(url, str) else url.render_as_string(hide_password=True)
    if not _SCHEME.match(text):
        return text
    return _PARAMETER.sub(_hidden, _PASSWORD.sub(r"\1:***@", text, count=1))


def _hidden(match: re.Match[str]) -> str:
    return match[0] if _HARMLESS.fullmatch(match[2].lower()) else f"{match[1]}{match[2]}=***"
