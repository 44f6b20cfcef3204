"""The threaded stages of the pipeline: reading and decoding small groups of images beside the calling thread."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.errors import TOO_LARGE, ImageError
from model.preprocess import OpenedImage, open_image

__all__ = ["Decoded", "Decoder", "File", "Item", "ReadDone", "Reader", "Stage", "WeightedSemaphore", "groups_to_decode"]

_TOGETHER: Final = 8
_TOGETHER_BYTES: Final = 64 << 10
_UNCOUNTED_PIXELS: Final = 1 << 20
_NO_MEMORY: Final = TOO_LARGE  # of an image whose header was fine


@dataclass(frozen=True, slots=True)
class Item:
    """One image to classify: the caller's key for it, and its path for `read`."""

    key: int
    path: str


@dataclass(frozen=True, slots=True)
class File:
    """The bytes of one item and their SHA-256."""

    key: int
    data: bytes
    digest: bytes


@dataclass(slots=True)
class ReadDone:
    """A group after reading: the files, the keys that failed with (code, message), and what was left for later."""

    files: list[File] = field(default_factory=list)
    failed: list[tuple[int, tuple[str, str]]] = field(default_factory=list)
    left: Sequence[Item] = ()

    def __len__(self) -> int:
        return len(self.files) + len(self.failed) + len(self.left)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file after decoding: `pixels` uint8 (S, S, 3) or an error (code, message). `file_bytes`: the file's size."""

    digest: bytes
    file_bytes: int
    pixels: NDArray[np.uint8] | None
    error: tuple[str, str] | None = None


class WeightedSemaphore:
    """A semaphore with weights. What is heavier than `size` comes in alone; what weighs little is not counted."""

    def __init__(self, size: int) -> None:
        self._size, self._inside, self._changed = size, 0, threading.Condition()

    @property
    def size(self) -> int:
        """The weight that fits at once."""
        return self._size

    def acquire(self, weight: int) -> None:
        """Wait until `weight` fits beside what is inside."""
        if weight > _UNCOUNTED_PIXELS:
            with self._changed:
                self._changed.wait_for(lambda: not self._inside or self._inside + weight <= self._size)
                self._inside += weight

    def release(self, weight: int) -> None:
        """Undo `acquire` with the same weight."""
        if weight > _UNCOUNTED_PIXELS:
            with self._changed:
                self._inside -= weight
                self._changed.notify_all()


class Stage:
    """Up to `threads` threads, which turn each group put in into one result on `done`; an exception is put there in its
    place.
    """

    def __init__(self, work: Callable[[Any, threading.Event], Any], *, threads: int, name: str, done: SimpleQueue[Any]):
        self.threads = threads
        self._work, self._done = work, done
        self._groups: SimpleQueue[Any] = SimpleQueue()
        self._stopping = threading.Event()
        self._name = name
        self._threads: list[threading.Thread] = []

    def put(self, group: Any) -> None:
        """Queue a group; the first ones start a thread each."""
        self._groups.put(group)
        if len(self._threads) < self.threads:
            self._threads.append(threading.Thread(target=self._serve, name=self._name, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Drop what is queued, lets each thread finish the image in hand, and waits for them."""
        self._stopping.set()
        for _ in self._threads:
            self._groups.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (group := self._groups.get()) is not None and not self._stopping.is_set():
            try:
                self._done.put(self._work(group, self._stopping))
            except BaseException as exc:
                # Raised again in the calling thread, which ends the call.
                self._done.put(exc)


class Reader:
    """Reads and hashes the items of a group; stops early at `most_bytes` bytes, so that huge files do not pile up."""

    def __init__(self, read: Callable[[str], bytes], *, most_bytes: int, on_progress: Callable[[], None]) -> None:
        self._read, self._most_bytes, self._on_progress = read, most_bytes, on_progress

    def __call__(self, items: Sequence[Item], stopping: threading.Event) -> ReadDone:
        """Return what was read of `items`. An exception with `code` and `message` fails its image; others leave."""
        done, size = ReadDone(), 0
        for index, item in enumerate(items):
            if size >= self._most_bytes or stopping.is_set():
                done.left = items[index:]
                break
            try:
                data = self._read(item.path)
            except Exception as exc:
                done.failed.append((item.key, _image_error(exc)))
            else:
                size += len(data)
                done.files.append(File(item.key, data, hashlib.sha256(data).digest()))
            self._on_progress()
        return done


class Decoder:
    """Decodes the files of a group to `size`, with at most `max_pixels` being decoded at once in all threads."""

    def __init__(self, *, size: int, max_pixels: int, on_progress: Callable[[], None]) -> None:
        self._size, self._max_pixels, self._on_progress = size, max_pixels, on_progress
        self._semaphore = WeightedSemaphore(max_pixels)

    def __call__(self, files: Sequence[File], stopping: threading.Event) -> list[Decoded]:
        """Return one element per file, in order; fewer if the call is being stopped."""
        done = []
        for file in files:
            if stopping.is_set():
                break
            done.append(self._decode(file))
            self._on_progress()
        return done

    def _decode(self, file: File) -> Decoded:
        try:
            image = open_image(file.data, self._size, max_pixels=self._max_pixels)
            try:
                pixels = self._decode_within(image, image.pixels)
            except ImageError as exc:
                if exc.code != _NO_MEMORY:
                    raise
                # The memory may have gone to another image that was being decoded: once more, alone.
                image = open_image(file.data, self._size, max_pixels=self._max_pixels)
                pixels = self._decode_within(image, max(self._semaphore.size, image.pixels))
            return Decoded(file.digest, len(file.data), pixels)
        except ImageError as exc:
            return Decoded(file.digest, len(file.data), None, (exc.code, exc.message))

    def _decode_within(self, image: OpenedImage, weight: int) -> NDArray[np.uint8]:
        self._semaphore.acquire(weight)
        try:
            return image.decode()
        finally:
            self._semaphore.release(weight)


def groups_to_decode(files: Sequence[File]) -> list[list[File]]:
    """Group tiny files together, so that a queue entry is not dearer than its image; large ones alone, to spread
    evenly.
    """
    groups: list[list[File]] = []
    size = _TOGETHER_BYTES
    for file in files:
        if size >= _TOGETHER_BYTES or len(groups[-1]) >= _TOGETHER:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += len(file.data)
    return groups


def _image_error(exc: Exception) -> tuple[str, str]:
    code, message = getattr(exc, "code", None), getattr(exc, "message", None)
    if isinstance(code, str) and isinstance(message, str):
        return code, message
    raise exc
