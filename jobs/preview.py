"""Thumbnails and classifications of single images, from a child process: this one never decodes what others have made.

The child (`python -P -m workers preview`) has the pipeline's decoder and limits. One that dies of an image, or does not
answer in time, fails that image alone; the next image gets a new child.

A frame, in both directions: the lengths of a JSON object and of the bytes that follow it (two unsigned 32-bit numbers,
big-endian), the object, the bytes.
"""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from jobs.errors import PreviewUnavailable
from jobs.settings import environment
from jobs.states import ImageErrorCode, ImageFailure

if TYPE_CHECKING:
    from jobs.records import Json
    from jobs.settings import Settings

__all__ = ["COMMAND", "Frame", "Preview", "can_decode", "read_frame", "write_frame"]

COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "workers", "preview")
START_SECONDS: Final = 60.0  # a busy machine loads Python and Pillow slowly
IMAGE_SECONDS: Final = 30.0
CLASSIFY_SECONDS: Final = 90.0  # the first one loads the model
_LENGTHS: Final = struct.Struct(">II")
_CRASHED: Final = "the process that decoded it crashed"


class Frame(NamedTuple):
    """A JSON object and the bytes that belong to it."""

    what: Json
    data: bytes = b""


def read_frame(stream: IO[bytes]) -> Frame | None:
    """Return the next frame; None at the end of the stream, or where it ends in the midst of one."""
    head = stream.read(_LENGTHS.size)
    if len(head) < _LENGTHS.size:
        return None
    lengths = _LENGTHS.unpack(head)
    text, data = (stream.read(length) for length in lengths)
    return Frame(json.loads(text), data) if (len(text), len(data)) == lengths else None


def write_frame(stream: IO[bytes], frame: Frame) -> None:
    """Write a frame at once."""
    text = json.dumps(frame.what).encode()
    stream.write(_LENGTHS.pack(len(text), len(frame.data)) + text)
    stream.write(frame.data)
    stream.flush()


def can_decode() -> bool:
    """Return whether this installation can decode images; nothing is imported."""
    return find_spec("PIL") is not None and find_spec("model") is not None


class Preview:
    """One child process, started when it is first needed. Safe in several threads, which take turns."""

    def __init__(self, settings: Settings, *, command: Sequence[str] = COMMAND, seconds: float = IMAGE_SECONDS) -> None:
        self._settings = settings
        self._command = command
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def thumbnail(self, image: bytes, *, size: int) -> bytes | ImageFailure:
        """Return a JPEG whose longer side has at most `size` pixels, or why there is none.

        Raises PreviewUnavailable.
        """
        answer = self._ask(Frame({"do": "thumbnail", "size": size}, image), seconds=self._seconds)
        return answer if isinstance(answer, ImageFailure) else answer.data

    def classify(self, image: bytes, *, version: str, top_k: int) -> Json | ImageFailure:
        """Return what this model version says: `label` to `decision`, `top`, `model_version` and `content_hash` as in
        a result; or why it says nothing. Raises PreviewUnavailable.
        """
        command = Frame({"do": "classify", "version": version, "top_k": top_k}, image)
        answer = self._ask(command, seconds=max(self._seconds, CLASSIFY_SECONDS))
        return answer if isinstance(answer, ImageFailure) else dict(answer.what["result"])

    def close(self) -> None:
        """End the child; nothing can be asked any more."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()  # one that is at work, too: it keeps nothing
        with self._lock:
            self._end()

    @property
    def pid(self) -> int | None:
        """The process id of the child, if there is one."""
        return self._child.pid if self._child is not None else None

    def _ask(self, command: Frame, *, seconds: float) -> Frame | ImageFailure:
        with self._lock:
            if self._closed:
                raise PreviewUnavailable("the preview is closed")
            child = self._living() or self._start()
            answer, in_time = _exchange(child, command, seconds=seconds)
            if answer is None:
                self._end()
        if answer is None:
            why = f"it takes longer than {seconds:g} s to decode" if not in_time else _CRASHED
            return ImageFailure(ImageErrorCode.WORKER_CRASHED, why)
        if "failed" in answer.what:
            raise PreviewUnavailable(str(answer.what["failed"]))
        if error := answer.what.get("error"):
            return ImageFailure(ImageErrorCode(error["code"]), str(error["message"]))
        return answer

    def _living(self) -> subprocess.Popen[bytes] | None:
        """The child, unless it has ended meanwhile."""
        if self._child is not None and self._child.poll() is not None:
            self._end()
        return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        if not can_decode():
            raise PreviewUnavailable(
                "this installation is only the client: pip install 'car-classifier[cpu]' (or [gpu])"
            )
        child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(self._settings),
            start_new_session=True,  # Ctrl-C is for this process, which then ends it
        )
        self._child = child
        hello, _ = _exchange(child, None, seconds=START_SECONDS)
        if hello is None:
            self._end()
            raise PreviewUnavailable("the process that decodes images does not start; see what it wrote to stderr")
        return child

    def _end(self) -> None:
        if (child := self._child) is None:
            return
        self._child = None
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what it did not read
                    stream.close()
        child.wait()


def _exchange(child: subprocess.Popen[bytes], command: Frame | None, *, seconds: float) -> tuple[Frame | None, bool]:
    """Send a command, if any, and return the next answer (None: the child has ended) and whether it came in time.

    A child that takes too long is killed, which ends the wait.
    """
    assert child.stdin is not None
    assert child.stdout is not None
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        if command is not None:
            write_frame(child.stdin, command)
        return read_frame(child.stdout), not late.is_set()
    except (OSError, ValueError):  # it ended before it had read all
        return None, not late.is_set()
    finally:
        timer.cancel()
