"""Things on the queues that no client of this program has put there: dropped, and the workers live."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

from jobs import Client
from tests.support.backends import Backend
from tests.support.engines import SCRIPTED
from tests.support.following import ended, follow
from tests.support.processes import WorkerProcess, wait_until
from tests.support.servers import Redis

CONTENT = "nobody's business"


def envelope(body: object, *, encoded: bool = True, **headers: object) -> dict[str, object]:
    """A message as Celery would send it, with this body."""
    text = json.dumps(body)
    return {
        "body": base64.b64encode(text.encode()).decode() if encoded else text,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "workers.classify_batch", "id": "1-2-3", "argsrepr": CONTENT, **headers},
        "properties": {
            "correlation_id": "1-2-3",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "classify"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "4-5-6",
        },
    }


def without(message: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in message.items() if name not in names}


GOOD = [[1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
ITEMS: list[object] = [
    *(b"hello", b"", b"\xff\xfe\0", b"[" * 100_000, CONTENT.encode() * 1_000_000),
    *([], 7, None, "text", {}, {"body": CONTENT}, {"properties": 5, "headers": {}}),
    *(envelope(5), envelope([]), envelope(None), envelope(CONTENT), envelope({"task": CONTENT}), envelope([1, 2, 3])),
    *(envelope([[CONTENT], {}, {}]), envelope([[], {}, {}]), envelope([[1, 2, 3], {}, 5]), envelope([[1], [], {}])),
    *(envelope([[-1], {}, {}]), envelope([[10**30], {}, {}]), envelope([[1], {"x": CONTENT}, {}])),
    *(
        envelope(GOOD, task="workers.nothing"),
        envelope(GOOD, task=7),
        envelope(GOOD, task=None),
        envelope(GOOD, id=None),
    ),
    *(envelope(GOOD, task="workers.scan_job"), envelope(GOOD, task="workers.finish_job"), envelope(GOOD, eta=CONTENT)),
    *(envelope(GOOD, expires=CONTENT), envelope(GOOD, timelimit=[CONTENT, 1]), envelope(GOOD, retries=CONTENT)),
    *(envelope(GOOD, encoded=False), {**envelope(GOOD), "headers": None}, {**envelope(GOOD), "headers": {}}),
    *({**envelope(GOOD), "headers": []}, {**envelope(GOOD), "properties": {}}, {**envelope(GOOD), "body": 5}),
    *({**envelope(GOOD), "content-type": "application/x-python-serialize"}, without(envelope(GOOD), "content-type")),
    *(without(envelope(GOOD), "body"), without(envelope(GOOD), "properties"), without(envelope(GOOD), "headers")),
]


def test_they_are_dropped(
    server_backend: Backend,
    redis_server: Redis,
    photos: Callable[..., Path],
    worker: Callable[..., WorkerProcess],
) -> None:
    database = int(server_backend.broker_url.rpartition("/")[2])
    with Client() as client, redis_server.connect(database) as queues:
        running = worker({**server_backend.env, **SCRIPTED, "CARS_BATCH_SIZE": "5"})
        for queue in ("classify", "control"):
            queues.lpush(queue, *(item if isinstance(item, bytes) else json.dumps(item) for item in ITEMS))
        job = client.submit(str(photos(100, 16)))
        assert follow(job, until=ended, timeout=90).ok == 100
        wait_until(lambda: not queues.exists("classify", "control"), 60, "the queues are empty")
        wait_until(lambda: not queues.hlen("unacked"), 60, "nothing comes back")
        assert running.process.poll() is None
        again = client.submit(str(photos(10, 16, Path(job.status().source).parent / "more")))
        assert follow(again, until=ended, timeout=60).ok == 10
        assert running.stop(60) == 0
    output = running.output()
    assert "a message is dropped: not JSON (5 bytes)" in output
    assert "a message is dropped: a JSON int, not a message (1 bytes)" in output
    assert CONTENT not in output
    assert "this worker starts anew" not in output
