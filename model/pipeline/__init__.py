"""Reads, looks up, decodes and infers the images of one batch, each stage ahead of the next, within bounds.

The calling thread looks up, infers and yields; readers and decoders run beside it, and hashing, decoding and inference
leave the interpreter's lock. The cores are busy with one or the other from the first image to the last.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.cores import available_cores
from model.engines import Engine
from model.errors import UNSUPPORTED, ModelError
from model.pipeline.threads import Decoded, Decoder, File, Item, ReadDone, Reader, Stage, groups_to_decode
from model.preprocess import MAX_PIXELS

__all__ = ["Item", "Limits", "Outcome", "classify"]

# The first look-up is small, so that decoding starts soon.
_FIRST_LOOKUP: Final = 8
_FIRST_LOOKUP_BYTES: Final = 256 << 10
_INLINE_BYTES: Final = 4096  # a smaller file is decoded sooner than another thread has woken up
_BATCH: Final = 16
_NO_NUMBERS: Final = (UNSUPPORTED, "the model finds no finite numbers for this image; try another version")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item: `logits` float32 (C,), or an `error` (code, message), or neither: it was known already.

    `content_hash` is the SHA-256 of the very bytes that were decoded; None if they could not be read.
    """

    key: int
    content_hash: bytes | None = None
    logits: NDArray[np.float32] | None = None
    error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one call. Threads of 0: one per core; give more `read_threads` where reading waits for a network.

    Memory is bounded by `ahead` images read and not yet inferred, `ahead_bytes` of their files (and one file per reader
    above it), and `max_pixels` being decoded at once (images under a megapixel are not counted).
    """

    max_pixels: int = MAX_PIXELS
    decode_threads: int = 0
    read_threads: int = 0
    lookup: int = 32
    ahead: int = 128
    ahead_bytes: int = 128 << 20


def classify(
    items: Iterable[Item],
    *,
    read: Callable[[str], bytes],
    engine: Engine,
    known: Callable[[set[bytes]], set[bytes]],
    limits: Limits | None = None,
    on_progress: Callable[[], None] | None = None,
    on_inference: Callable[[float], None] | None = None,
) -> Iterator[Outcome]:
    """Yield exactly one outcome per item, in no particular order.

    `read` is called from several threads. An exception of it with the attributes `code` and `message` is that image's
    error; any other, and any of `engine` or `known`, ends the call, after the threads have ended. `known` gets SHA-256
    digests and returns those that need no inference; it is called from the calling thread, once for `limits.lookup`
    images or so. The same bytes are inferred once per call, which keeps 4 C bytes per image. `on_progress`
    is called from any of the threads whenever an image was read, decoded or inferred; `on_inference` from the calling
    thread, with the seconds that the engine took for some of them. Closing the generator stops the threads.
    """
    run = _Run(
        iter(items),
        read=read,
        engine=engine,
        known=known,
        limits=limits or Limits(),
        on_progress=on_progress,
        on_inference=on_inference,
    )
    try:
        yield from run.outcomes()
    finally:
        run.stop()


class _Run:
    """One call of `classify`; its state is touched by the calling thread alone."""

    def __init__(
        self,
        items: Iterator[Item],
        *,
        read: Callable[[str], bytes],
        engine: Engine,
        known: Callable[[set[bytes]], set[bytes]],
        limits: Limits,
        on_progress: Callable[[], None] | None,
        on_inference: Callable[[float], None] | None,
    ) -> None:
        self._items, self._engine, self._known, self._limits = items, engine, known, limits
        self._on_progress = on_progress or (lambda: None)
        self._on_inference = on_inference or (lambda _: None)
        self._batch: int = getattr(engine, "preferred_batch", _BATCH)
        decoders = limits.decode_threads or available_cores(hyperthreads=True)
        readers = limits.read_threads or max(1, decoders // 2)
        self._bytes_per_group = max(1, limits.ahead_bytes // (4 * readers))
        self._read_together = max(4, limits.ahead // (4 * readers))
        self._done: SimpleQueue[ReadDone | list[Decoded] | BaseException] = SimpleQueue()
        reader = Reader(read, most_bytes=self._bytes_per_group, on_progress=self._on_progress)
        self._decoder = decoder = Decoder(
            size=engine.input_size, max_pixels=limits.max_pixels, on_progress=self._on_progress
        )
        self._reading = Stage(reader, threads=readers, name="cars-read", done=self._done)
        self._decoding = Stage(decoder, threads=decoders, name="cars-decode", done=self._done)
        self._unread: deque[Item] = deque()
        self._more = True
        self._images_reading = self._groups_reading = self._images_decoding = self._bytes_in_memory = 0
        self._looked_up = False
        self._files: list[File] = []
        self._decoded: deque[Decoded] = deque()
        self._waiting: dict[bytes, list[int]] = {}
        self._finished: dict[bytes, Outcome] = {}
        self._outcomes: list[Outcome] = []

    def outcomes(self) -> Iterator[Outcome]:
        """Loop: take what is done, ask for more, look up, infer; wait only if there is nothing else to do."""
        while True:
            self._take_what_is_done()
            self._request()
            if self._is_time_to_look_up():
                self._look_up()
            busy = self._images_reading or self._images_decoding
            if len(self._decoded) >= self._batch or (self._decoded and not busy):
                self._infer()
            elif busy and not self._outcomes:
                self._take(self._done.get())
            elif not busy and not self._more:
                yield from self._outcomes
                return
            ready, self._outcomes = self._outcomes, []
            yield from ready

    def _is_time_to_look_up(self) -> bool:
        """Return whether to look up: after the first few images, so that decoding begins; then less often, and of tiny
        files once for all.
        """
        if not self._images_reading:
            return bool(self._files)
        if self._looked_up:
            return len(self._files) >= self._limits.lookup
        few = min(_FIRST_LOOKUP, self._limits.lookup)
        return len(self._files) >= few and sum(len(file.data) for file in self._files) >= _FIRST_LOOKUP_BYTES

    def stop(self) -> None:
        """End the threads; what they still had to do is dropped."""
        self._reading.stop()
        self._decoding.stop()

    def _request(self) -> None:
        """Ask for as many images as the bounds allow."""
        while (
            self._more
            and self._groups_reading < 2 * self._reading.threads
            and self._images_reading + len(self._files) + self._images_decoding + len(self._decoded)
            < self._limits.ahead
            and self._bytes_in_memory + self._groups_reading * self._bytes_per_group < self._limits.ahead_bytes
        ):
            group = self._next_group()
            if group:
                self._images_reading += len(group)
                self._groups_reading += 1
                self._reading.put(group)

    def _next_group(self) -> list[Item]:
        group: list[Item] = []
        while len(group) < self._read_together and self._more:
            item = self._unread.popleft() if self._unread else next(self._items, None)
            if item is None:
                self._more = False
            else:
                group.append(item)
        return group

    def _take_what_is_done(self) -> None:
        try:
            while True:
                self._take(self._done.get_nowait())
        except Empty:
            return

    def _take(self, done: ReadDone | list[Decoded] | BaseException) -> None:
        if isinstance(done, BaseException):
            raise done
        if isinstance(done, ReadDone):
            self._images_reading -= len(done)
            self._groups_reading -= 1
            self._bytes_in_memory += sum(len(file.data) for file in done.files)
            self._files += done.files
            self._outcomes += [Outcome(key, error=error) for key, error in done.failed]
            if done.left:
                self._unread.extendleft(reversed(done.left))
                self._more = True
            return
        self._images_decoding -= len(done)
        for image in done:
            self._bytes_in_memory -= image.file_bytes
            if image.error is None:
                self._decoded.append(image)
            else:
                self._finish(image.digest, error=image.error)

    def _look_up(self) -> None:
        """Pass on what nobody has inferred yet; bytes met before in this call share the outcome of the first."""
        new: dict[bytes, File] = {}
        for file in self._files:
            if file.digest in self._finished:
                before = self._finished[file.digest]
                self._outcomes.append(Outcome(file.key, file.digest, before.logits, before.error))
            elif file.digest in self._waiting:
                self._waiting[file.digest].append(file.key)
            else:
                self._waiting[file.digest] = [file.key]
                new[file.digest] = file
                continue
            self._bytes_in_memory -= len(file.data)
        self._files = []
        self._looked_up = True
        for digest in self._known(set(new)) & new.keys() if new else ():
            self._bytes_in_memory -= len(new.pop(digest).data)
            self._finish(digest)
        self._images_decoding += len(new)
        large = [file for file in new.values() if len(file.data) > _INLINE_BYTES]
        for group in groups_to_decode(large):
            self._decoding.put(group)
        if small := [file for file in new.values() if len(file.data) <= _INLINE_BYTES]:
            self._take(self._decoder(small, threading.Event()))

    def _infer(self) -> None:
        group = [self._decoded.popleft() for _ in range(min(self._batch, len(self._decoded)))]
        start = time.perf_counter()
        logits = self._engine.logits(np.stack([image.pixels for image in group if image.pixels is not None]))
        self._on_inference(time.perf_counter() - start)
        expected = (len(group), len(self._engine.classes))
        if logits.shape != expected:
            raise ModelError(f"the engine gave logits of shape {logits.shape}, not {expected}")
        self._on_progress()
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        for image, row, good in zip(group, logits, finite, strict=True):
            self._finish(image.digest, logits=row if good else None, error=None if good else _NO_NUMBERS)

    def _finish(
        self, digest: bytes, *, logits: NDArray[np.float32] | None = None, error: tuple[str, str] | None = None
    ) -> None:
        outcomes = [Outcome(key, digest, logits, error) for key in self._waiting.pop(digest)]
        self._finished[digest] = outcomes[0]
        self._outcomes += outcomes
