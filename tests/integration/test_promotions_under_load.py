"""Readers load the production version the way a worker does, during promotions and rollbacks."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from jobs import Client
from jobs import settings as configuration
from jobs.db.queries import versions
from model.cards import CARD
from tests.support.artifacts import graph
from tests.support.processes import wait_until
from workers.runtime import Runtime

NAMES = ("v1", "v2", "v3")
READERS = 4
LOADS = 1_000
CHANGES = 20
FILE = "weights.safetensors"
UNVERIFIED = "a load that was not verified"
SECONDS = 120


@pytest.fixture(autouse=True, params=["folder", "s3"])
def _store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the versions lie: the folder in CARS_HOME, or a bucket with this machine's copies beside it."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        monkeypatch.setenv("CARS_MODELS", "s3://cars/models")


@pytest.fixture
def three(client: Client, publish: Callable[..., str]) -> list[str]:
    """Three versions, each with files of its own; the first is in production."""
    for number, name in enumerate(NAMES):
        weights = save({"weight": np.full(6, number, dtype=np.float16)})
        publish(name, files={"model.onnx": graph(number).SerializeToString(), FILE: weights})
    client.promote(NAMES[0])
    return list(NAMES)


def load(reader: Runtime) -> str:
    """One load: asks what is in production, fetches and verifies it. Its name, UNVERIFIED, or the error.

    What the load gave is hashed here once more: it must be the card that is registered, and every file as it says.
    """
    try:
        with reader.database.read() as connection:
            live = versions.production(connection)
        assert live is not None
        folder, card = reader.artifacts.find(live)
    except Exception as exc:
        return repr(exc)
    return card.name if _hashes(folder, [CARD, *card.files]) == {CARD: live.digest, **card.files} else UNVERIFIED


def _hashes(folder: Path, files: Sequence[str]) -> dict[str, str]:
    return {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}


@pytest.fixture
def readers(three: list[str]) -> Iterator[list[Runtime]]:
    """Runtimes of their own, as worker processes have."""
    runtimes = [Runtime(configuration.load(), identity="reader", notify=lambda *_: False) for _ in range(READERS)]
    yield runtimes
    for one in runtimes:
        one.close()


@contextmanager
def loading(readers: Sequence[Runtime]) -> Iterator[list[str]]:
    """The readers load, one load after the other, until the end of the block; yields what they loaded so far."""
    seen: list[str] = []
    stop = threading.Event()

    def read(reader: Runtime) -> None:
        while not stop.is_set():
            seen.append(load(reader))

    with ThreadPoolExecutor(len(readers)) as threads:
        for reader in readers:
            threads.submit(read, reader)
        try:
            yield seen
        finally:
            stop.set()


def more(seen: list[str], count: int) -> int:
    """Wait until there are so many loads more; how many there are then."""
    enough = len(seen) + count
    wait_until(lambda: len(seen) >= enough, SECONDS, lambda: f"{enough} loads; there were {len(seen)}")
    return len(seen)


def change(client: Client, number: int) -> str:
    """Two promotions and a rollback in turn; the name that is live after it."""
    if number % 3 == 2:
        return client.rollback()
    following = NAMES[(NAMES.index(client.model().name) + 1) % len(NAMES)]
    client.promote(following)
    return following


def test_every_load_is_the_live_version_with_its_hashes_verified(
    client: Client, three: list[str], readers: list[Runtime]
) -> None:
    lives, starts, ends = [client.model().name], [0], []
    with loading(readers) as seen:
        for number in range(CHANGES):
            ends.append(more(seen, LOADS // CHANGES))
            lives.append(change(client, number))
            starts.append(len(seen))
        ends.append(more(seen, LOADS // CHANGES))
    assert all(one != after for one, after in pairwise(lives))
    assert [entry.model_version for entry in client.history()][-len(lives) :] == lives
    assert len(seen) >= LOADS
    assert set(seen) == set(three)
    # Between two changes a load gives what is live, but for those that were under way when it went live.
    for live, start, end in zip(lives, starts, ends, strict=True):
        assert end - start - seen[start:end].count(live) <= READERS


def test_a_version_that_was_damaged_since_is_refused_by_every_load(
    client: Client, readers: list[Runtime], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with loading(readers) as seen:
        client.promote("v2")
        more(seen, 20)
    assert "v2" in seen
    content = (tmp_path / "artifacts" / "v2" / FILE).read_bytes()
    content = content[:-1] + bytes([content[-1] ^ 1])
    if client.settings.models:
        request.getfixturevalue("s3").put_object(Bucket="cars", Key=f"models/v2/{FILE}", Body=content)
    for file in client.settings.home.glob(f"model*/v2*/{FILE}"):  # the store, or this machine's copy
        replace_in_place(file, content)
    with loading(readers) as seen:
        refused = more(seen, 40)
        client.rollback()
        after = len(seen)
        more(seen, READERS + 1)
    assert {"v2", UNVERIFIED}.isdisjoint(seen)
    assert set(NAMES).isdisjoint(seen[:refused])
    assert any(outcome.startswith("ArtifactCorrupt(") for outcome in seen[:refused])
    assert "v1" in seen[after:]


def replace_in_place(file: Path, content: bytes) -> None:
    """As many bytes, at the time that the file had: only reading it tells."""
    before = file.stat()
    assert before.st_size == len(content)
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
