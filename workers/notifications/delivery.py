"""The thread of a worker's parent that tells URLs of the ends of jobs, signed as Standard Webhooks prescribes.

An attempt is claimed before its request and recorded after it. Whoever dies in between leaves a claim that expires, and
the next attempt sends the same `webhook-id`: delivery is at least once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from jobs import notifications
from jobs.db.queries import notifications as rows
from jobs.db.queries.notifications import Claim
from jobs.errors import DatabaseError, SettingsInvalid
from jobs.redaction import redacted
from jobs.settings import Settings, signing_key
from workers.fork_safety import fork_lock
from workers.runtime import Runtime

if TYPE_CHECKING:
    import httpx

__all__ = ["PAUSES", "Delivery", "deliver_due", "signed"]

logger = logging.getLogger(__name__)
PAUSES = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0)  # seconds until the next attempt, ±20 %
SPREAD = 0.2
REQUEST_SECONDS = 10.0  # from the first look at the host's name to the answer's status
CLAIM_SECONDS = 20.0
AT_ONCE = 8  # so that one host that hangs does not hold up the others
GONE = 410


def signed(claim: Claim, key: bytes, *, timestamp: int) -> dict[str, str]:
    """Return the headers of an attempt: HMAC-SHA256 over id, time (seconds since 1970) and body.

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    content = f"{claim.webhook_id}.{timestamp}.{claim.body}".encode()
    signature = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "user-agent": "car-classifier",
        "webhook-id": claim.webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def deliver_due(runtime: Runtime) -> int:
    """Make the attempts that are due, and return how many there were. Raises DatabaseError."""
    with fork_lock, runtime.database.write() as connection:
        claims = rows.claim(connection, owner=runtime.owner, seconds=CLAIM_SECONDS, limit=AT_ONCE)
    sendable = [claim for claim in claims if not _refused(runtime, claim)]
    if sendable:
        asyncio.run(_attempt_all(runtime, sendable))
    return len(claims)


def _refused(runtime: Runtime, claim: Claim) -> bool:
    """Give up what this worker may not send, whatever was allowed as the job was submitted."""
    try:
        notifications.check(runtime.settings, claim.url)
    except SettingsInvalid as exc:
        _give_up(runtime, claim, str(exc))
        return True
    if runtime.settings.notify_secret is None:
        _give_up(runtime, claim, "a worker has no CARS_NOTIFY_SECRET to sign with: set it on all of them")
        return True
    return False


async def _attempt_all(runtime: Runtime, claims: list[Claim]) -> None:
    with fork_lock:  # a child that is forked in the midst of an import could never import that module
        import httpx

        tls = httpx.create_ssl_context()
    # Not `trust_env`: a proxy would go wherever it is told, and netrc would add passwords.
    async with httpx.AsyncClient(
        verify=tls, trust_env=False, follow_redirects=False, timeout=REQUEST_SECONDS
    ) as client:
        await asyncio.gather(*(_attempt(runtime, claim, client) for claim in claims))


async def _attempt(runtime: Runtime, claim: Claim, client: httpx.AsyncClient) -> None:
    import httpx

    status: int | None = None
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            status = await _post(runtime.settings, claim, client)
        error = f"the server answered {status}"
    except TimeoutError:
        error = f"no answer within {REQUEST_SECONDS:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
        error = f"no answer: {exc or type(exc).__name__}"
    except Exception as exc:  # one server must not make the others wait
        logger.exception("notification of job %d failed", claim.job_id)
        error = f"{type(exc).__name__}: {exc}"
    try:
        _record(runtime, claim, status, error)
    except DatabaseError as exc:
        logger.warning("the outcome for %s is not written, so that it is told again: %s", redacted(claim.url), exc)


async def _post(settings: Settings, claim: Claim, client: httpx.AsyncClient) -> int:
    """Return the status of the answer, whose body is not read."""
    assert settings.notify_secret is not None
    request = client.build_request("POST", claim.url, content=claim.body.encode())
    target = notifications.check(settings, claim.url)
    if (request.url.scheme, request.url.host) != target[:2]:  # both parsers must agree where it leads
        raise OSError(f"{redacted(claim.url)} is ambiguous")
    request.headers.update(signed(claim, signing_key(settings.notify_secret), timestamp=int(time.time())))
    response = await client.send(request, stream=True)
    await response.aclose()
    return response.status_code


def _record(runtime: Runtime, claim: Claim, status: int | None, error: str) -> None:
    if status is not None and 200 <= status < 300:
        with fork_lock, runtime.database.write() as connection:
            rows.deliver(connection, claim)
        logger.info("%s is told of job %d", redacted(claim.url), claim.job_id, extra={"job": claim.job_id})
    elif status == GONE or claim.attempt > len(PAUSES):
        _give_up(runtime, claim, f"{error} to attempt {claim.attempt}" if status else error)
    else:
        seconds = PAUSES[claim.attempt - 1] * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311 - no secret
        with fork_lock, runtime.database.write() as connection:
            rows.postpone(connection, claim, error, seconds=seconds)
        logger.warning("%s is not told of job %d yet: %s", redacted(claim.url), claim.job_id, error)


def _give_up(runtime: Runtime, claim: Claim, error: str) -> None:
    with fork_lock, runtime.database.write() as connection:
        rows.give_up(connection, claim, error)
    logger.error("%s is not told of job %d: %s", redacted(claim.url), claim.job_id, error)


class Delivery:
    """The thread: it sleeps until `look` finds something that is due."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._due = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def look(self) -> None:
        """Wake the thread if an attempt is due. Under `fork_lock`; raises DatabaseError."""
        with self._runtime.database.read() as connection:
            if rows.any_due(connection):
                self._due.set()

    def stop(self, *, patience: float = 1.0) -> None:
        """End the thread; a request that takes longer is left behind, and made again by another worker."""
        self._stop.set()
        self._due.set()
        self._thread.join(patience)

    def _run(self) -> None:
        while self._due.wait() and not self._stop.is_set():
            self._due.clear()
            try:
                while not self._stop.is_set() and deliver_due(self._runtime):
                    pass
            except DatabaseError as exc:
                logger.warning("notifications wait: %s", exc)
            except Exception:
                logger.exception("notifying failed; it continues in a moment")
