"""What arrives on a queue from any sender: what is not a message of this program is logged and dropped.

A message only says that there is work, so that dropping one loses nothing; a worker that ended over one would find it
again at its next start.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.consumer import Consumer
from kombu import transport as transports
from kombu.transport import redis

__all__ = ["GuardedConsumer", "RedisTransport", "numbers", "register"]

logger = logging.getLogger(__name__)


def register() -> None:
    """Use the guarded transport for URLs of Redis. Before the first connection of this process."""
    for scheme in ("redis", "rediss"):
        transports.TRANSPORT_ALIASES[scheme] = f"{__name__}:RedisTransport"


def numbers(values: tuple[Any, ...], *, task: str, at_least: int = 1) -> list[int] | None:
    """Return the ids in a task's arguments; None, after a line in the log, where they are something else."""
    if len(values) >= at_least and all(isinstance(v, int) and 0 <= v < 2**63 for v in values):
        return list(values)
    _log(f"{task} with {len(values)} arguments that are not ids", size=None)
    return None


def _log(kind: str, *, size: int | None) -> None:
    """By size and kind: its content is not logged: it is private, and may be long."""
    logger.warning("a message is dropped: %s%s", kind, "" if size is None else f" ({size} bytes)")


def _kind(item: Any) -> str | None:
    """Return what an item of a queue is that is not the envelope of a message; None where it is one."""
    try:
        envelope = json.loads(item)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(envelope, dict):
        return f"a JSON {type(envelope).__name__}, not a message"
    properties = envelope.get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        return "a JSON object, not a message"
    if not isinstance(properties.get("delivery_info"), dict) or not isinstance(envelope.get("headers"), dict):
        return "a message without headers"
    return None


class _Channel(redis.Channel):
    def _get_client(self) -> Any:
        base: Any = super()._get_client()

        class Client(base):
            """Hands on nothing but messages."""

            def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
                reply = super().parse_response(connection, command_name, **options)
                if command_name not in {"BRPOP", "RPOP"} or not reply:
                    return reply
                item = reply[1] if command_name == "BRPOP" else reply
                if kind := _kind(item):
                    _log(kind, size=len(item))
                    return None
                return reply

        return Client

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], object], consumer_tag: str, **kwargs: Any
    ) -> None:
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        deliver = self.connection._callbacks[queue]  # noqa: SLF001 - kombu has no other place to guard a callback
        passing = (*self.connection.connection_errors, *self.connection.channel_errors)

        def guarded(raw: Mapping[str, Any]) -> None:
            try:
                deliver(raw)
            except passing:
                raise
            except Exception as exc:
                _log(f"it cannot be read ({type(exc).__name__})", size=len(str(raw.get("body"))))
                logger.debug("the message that was dropped", exc_info=True)
                self._let_go(raw["properties"]["delivery_tag"])

        self.connection._callbacks[queue] = guarded  # noqa: SLF001 - kombu has no other place to guard a callback

    def _let_go(self, tag: str) -> None:
        if tag in self.qos._delivered:  # noqa: SLF001 - as above
            self.basic_ack(tag)


class RedisTransport(redis.Transport):
    """What `register` names."""

    Channel = _Channel


class GuardedConsumer(Consumer):
    """Celery's, which would log the whole content of what it does not know."""

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """Drop what is not a task."""
        self._drop("not a task", message)

    def on_unknown_task(self, _body: Any, message: Any, _exc: Exception) -> None:
        """Drop a task that this release does not have."""
        self._drop("a task that this release does not have", message)

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Drop a task that cannot be read."""
        self._drop(f"a task that cannot be read ({type(exc).__name__})", message)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop content that cannot be read."""
        self._drop(f"content that cannot be read ({type(exc).__name__})", message)

    def _drop(self, kind: str, message: Any) -> None:
        _log(kind, size=len(message.body or b""))
        message.ack_log_error(logger, self.connection_errors)
