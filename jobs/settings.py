"""Settings: the CARS_* environment variables, read once, frozen."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qs, urlsplit

from platformdirs import user_data_path
from pydantic import ByteSize, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from jobs.durations import span
from jobs.errors import SettingsInvalid

__all__ = ["Settings", "environment", "load", "signing_key"]

MIN_SIGNING_KEY = 24  # bytes
MIN_CHILD_MEMORY = 256 * 2**20  # less does not hold an engine
_BROKERS = frozenset({"memory", "redis", "rediss", "sentinel", "amqp", "amqps"})
_OF_URL = frozenset({"hostname", "password", "port", "transport", "userid", "virtual_host"})  # never in the query
_EXPECTED = {
    "device": "auto, cpu, cuda, or one card such as cuda:1",
    "engine": "auto, onnx, torch, or module:Class for an engine of your own",
    "log_format": "text or json",
    "web_token": "a secret of 16 to 1,000 characters",
}


class Settings(BaseSettings):
    """What `CARS_*` variables say; every field has a default that works on a laptop."""

    model_config = SettingsConfigDict(
        env_prefix="CARS_", frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    home: Path = Field(default_factory=lambda: user_data_path("car-classifier", appauthor=False))
    database_url: str = ""
    broker_url: str = "memory://"
    models: str = ""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    engine: str = Field(default="auto", pattern=r"^(auto|onnx|torch|[\w.]+:\w+)$")
    source_roots: Annotated[tuple[str, ...] | None, NoDecode] = None
    batch_size: int = Field(default=128, ge=1, le=10_000)
    window: int | None = Field(default=None, ge=1, le=10_000)
    lease_seconds: float = Field(default=20, ge=1, le=3600)
    stall_seconds: float = Field(default=120, ge=2, le=86_400)
    give_up: float = Field(default=21_600, gt=0)
    child_memory: ByteSize | None = Field(default=None, ge=MIN_CHILD_MEMORY)
    max_pixels: int = Field(default=50_000_000, ge=1)
    max_file_mb: float = Field(default=64, gt=0, le=4096)
    pretrained: Path | None = None
    notify_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    notify_secret: SecretStr | None = None
    log_format: Literal["text", "json"] = "text"
    web_token: str | None = Field(default=None, min_length=16, max_length=1000, repr=False)
    web_hosts: Annotated[tuple[str, ...], NoDecode] = ()

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("source_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        """Roots are separated by commas, line ends, or colons as in PATH (one before `//` is part of a URL); in a text
        that begins with a line end, by line ends alone, so that a root may have commas and colons.
        """
        if isinstance(value, str):
            parts = value.split("\n") if value.startswith("\n") else re.split(r",|\n|:(?!//)", value)
            return tuple(part.strip() for part in parts if part.strip())
        return value

    @field_validator("web_hosts", mode="before")
    @classmethod
    def _split_web_hosts(cls, value: Any) -> Any:
        """Names of hosts are separated by commas, blanks or line ends."""
        return tuple(value.replace(",", " ").lower().split()) if isinstance(value, str) else value

    @field_validator("notify_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        return tuple(re.split(r"[\s,]+", value.strip(" \t\n,").lower())) if isinstance(value, str) else value

    @field_validator("notify_hosts")
    @classmethod
    def _hosts_alone(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        hosts = tuple(host for host in value if host)
        for host in hosts:
            if not re.fullmatch(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", host):
                raise ValueError("must be hosts such as hooks.example.com or 10.0.0.7:8080, separated by commas")
        return hosts

    @field_validator("notify_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            signing_key(value)
        return value

    @field_validator("give_up", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        """A span such as `6h`, or seconds."""
        if not isinstance(value, str) or re.fullmatch(r"[\d.]+", value.strip()):
            return value
        return span(value).total_seconds()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if not value:
            return value
        try:
            url = make_url(value)
        except ArgumentError as exc:
            raise ValueError("must be a URL such as postgresql://user@host/name or sqlite:////path/cars.db") from exc
        if url.get_backend_name() in {"postgresql", "postgres"}:
            return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        if url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}:
            return value
        raise ValueError("must be postgresql://… or sqlite:///PATH (a file: several processes share it)")

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if not separator or scheme not in _BROKERS or not (rest or scheme == "memory"):
            raise ValueError("must be a URL such as redis://host:6379/0, or memory:// for a broker inside each worker")
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError as exc:
            raise ValueError("has a host or a port that cannot be: write redis://host:6379/0") from exc
        if wrong := _OF_URL & parse_qs(parts.query).keys():
            raise ValueError(f"must have its {min(wrong)} before the '?', as in redis://user:password@host:6379/0")
        return value

    @property
    def database(self) -> URL:
        """The SQLAlchemy URL in force."""
        return make_url(self.database_url or URL.create("sqlite", database=str(self.home / "cars.db")))

    @property
    def embedded(self) -> bool:
        """Whether the broker lives inside each worker, so that a client elsewhere only writes rows."""
        return self.broker_url.startswith("memory://")

    @property
    def sqlite(self) -> bool:
        """Whether the database is SQLite."""
        return self.database.get_backend_name() == "sqlite"

    @property
    def model_store(self) -> str:
        """Folder or fsspec URL where published model versions lie."""
        return self.models or str(self.home / "models")

    @property
    def roots(self) -> tuple[str, ...] | None:
        """What workers may read; None: anything (the default on the embedded database only)."""
        if self.source_roots is not None:
            return self.source_roots
        return None if self.sqlite else ()

    @property
    def max_file_bytes(self) -> int:
        """The largest file that is read, in bytes."""
        return int(self.max_file_mb * 2**20)


def load(**overrides: Any) -> Settings:
    """Settings from the environment, `overrides` on top (None means: not given).

    Raises SettingsInvalid with the name of each variable that cannot be used.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as exc:
        raise SettingsInvalid("; ".join(_line(error) for error in exc.errors())) from exc


def _line(error: Mapping[str, Any]) -> str:
    name = "_".join(str(part) for part in error["loc"])
    # a URL may hold a password
    value = "" if name.endswith(("_url", "_secret", "_token")) else f", not {str(error['input'])!r}"
    return f"CARS_{name.upper()} {_expected(name, error)}{value}"


def _expected(name: str, error: Mapping[str, Any]) -> str:
    """Return what a setting must be, in plain words; never in those of the library that found it wrong."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if name in _EXPECTED:
        return f"must be {_EXPECTED[name]}"
    field = Settings.model_fields.get(name)
    if field is None or not {int, float} & {field.annotation, *get_args(field.annotation)}:
        return "cannot be used"
    whole = int in {field.annotation, *get_args(field.annotation)}
    limits = {
        kind: getattr(part, kind) for part in field.metadata for kind in ("ge", "gt", "le") if hasattr(part, kind)
    }
    bounds = (("ge", "from"), ("gt", "above"), ("le", "to" if "ge" in limits else "and up to"))
    return " ".join(
        ["must be a whole number" if whole else "must be a number"]
        + [f"{word} {limits[kind]:,}" for kind, word in bounds if kind in limits]
    )


def signing_key(secret: SecretStr) -> bytes:
    """Return the bytes that sign what is sent to URLs. Raises ValueError, without the secret in it."""
    expected = "must be whsec_ and base64 of at least 24 bytes: make one with `openssl rand -base64 32`"
    prefix, _, text = secret.get_secret_value().rpartition("_")
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError(expected) from None
    if prefix != "whsec" or len(key) < MIN_SIGNING_KEY:
        raise ValueError(expected)
    return key


def _text(value: Any) -> str:
    """Return a setting as its variable has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return "\n".join(["", *value]) or "\n" if isinstance(value, tuple) else str(value)


def environment(settings: Settings) -> dict[str, str]:
    """Return the process environment with these settings in it, for a child process that reads CARS_* itself."""
    given = {
        f"CARS_{name.upper()}": _text(value)
        for name, value in settings.model_dump().items()
        if name in settings.model_fields_set and value is not None
    }
    return {**os.environ, **given}
