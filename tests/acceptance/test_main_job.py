"""The main job with the bundled model: the same rows everywhere, and no file that breaks a worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs import Client
from tests.support.backends import Backend
from tests.support.following import check_whole, ended, follow
from tests.support.processes import RunCars, WorkerProcess

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".mpo"}


def rows(text: str) -> list[dict[str, Any]]:
    """Return the results ordered by path, without job and time."""
    parsed = [{**json.loads(line), "job": None, "finished_at": None} for line in text.splitlines()]
    return sorted(parsed, key=lambda row: str(row["path"]))


def test_the_same_rows_from_one_command_and_from_two_workers(
    server_backend: Backend,
    photos: Callable[..., Path],
    worker: Callable[..., WorkerProcess],
    run_cars: RunCars,
    tmp_path: Path,
) -> None:
    folder = photos(60, 64)
    photos(20, 96, folder / "listing")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    alone = {"CARS_HOME": str(tmp_path / "alone"), "CARS_DATABASE_URL": "", "CARS_BROKER_URL": "memory://"}
    embedded = run_cars("classify", folder, "--format", "jsonl", env=alone)
    assert embedded.returncode == 0, embedded.stderr
    env = {**server_backend.env, "CARS_BATCH_SIZE": "8"}
    for _ in range(2):
        worker(env)
    with Client() as client:
        job = client.submit(str(folder))
        assert follow(job, until=ended).state == "completed_with_errors"
        check_whole(client, job, total=81)
    server = run_cars("results", job.id, "--format", "jsonl", env=env)
    assert len(rows(embedded.stdout)) == 81
    assert rows(embedded.stdout) == rows(server.stdout)


class MemoryPeak:
    """The largest memory that a process and its children have together, in bytes."""

    def __init__(self, pid: int) -> None:
        self.value = 0
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            try:
                members = [self._process, *self._process.children(recursive=True)]
                self.value = max(self.value, sum(member.memory_info().rss for member in members))
            except psutil.NoSuchProcess:
                continue

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.value


@pytest.mark.shared
def test_awkward_images(backend: Backend, shared: Path, worker: Callable[..., WorkerProcess]) -> None:
    folder = shared / "awkward_images" / "images"
    undecodable = set((shared / "awkward_images" / "undecodable.txt").read_text().split())
    undecodable -= {"png_decompression_dos.png", "unknown_compression_method.png"}  # only their metadata are broken
    expected = {file.name for file in folder.iterdir() if file.suffix.lower() in IMAGES}
    running = worker(backend.env)
    children = running.child_pids()
    memory = MemoryPeak(running.pid)
    with Client() as client:
        job = client.submit(str(folder))
        status = follow(job, until=ended)
        failed = {error.path: error.code for error in job.errors()}
        assert {result.path for result in job.results()} == expected
        assert undecodable & expected <= failed.keys()
        assert all(failed.values())
        assert status.failed == len(failed)
    assert running.child_pids() == children, "a worker process died"
    assert 0 < memory.stop() < 2**30
