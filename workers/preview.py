"""Decodes and classifies single images for a process that has neither Pillow nor the model; see `jobs.preview`.

Commands come in on stdin and answers go out on stdout, one after the other, as frames of `jobs.preview`. What an image
does to this process ends this process alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from jobs.errors import CarClassifierError
from jobs.preview import Frame, read_frame, write_frame
from jobs.records import Json, top_labels
from jobs.settings import Settings
from jobs.states import ImageErrorCode
from model.errors import ImageError, ModelError
from workers import devices
from workers.supervision import memory

__all__ = ["serve"]

_NO_MEMORY = "the image needs more memory than there is; make it smaller"


def serve(settings: Settings) -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is not an answer
    preview = _Preview(settings)
    limit = None if devices.uses_cuda(settings) else int(settings.child_memory or memory.FLOOR)
    with memory.limited(limit), suppress(BrokenPipeError):
        write_frame(answers, Frame({"ready": True}))
        while (command := read_frame(sys.stdin.buffer)) is not None:
            write_frame(answers, preview.answer(command))


class _Preview:
    """What this process knows to do, and the engines that it has loaded."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._classifier: Callable[..., Json] | None = None

    def answer(self, command: Frame) -> Frame:
        """Return an image or an object; `error` is the image's, `failed` is what keeps this machine from it."""
        what, image = command
        try:
            if what["do"] == "thumbnail":
                return Frame({}, self._thumbnail(image, int(what["size"])))
            return Frame({"result": self._classify(image, version=what["version"], top_k=int(what["top_k"]))})
        except ImageError as exc:
            return Frame({"error": {"code": exc.code, "message": exc.message}})
        except MemoryError:
            return Frame({"error": {"code": ImageErrorCode.TOO_LARGE, "message": _NO_MEMORY}})
        except (CarClassifierError, ModelError) as exc:
            return Frame({"failed": str(exc)})
        except Exception as exc:  # a worker would be broken then
            return Frame({"failed": f"{type(exc).__name__}: {' '.join(str(exc).split())}"})

    def _thumbnail(self, data: bytes, size: int) -> bytes:
        from model.thumbnails import thumbnail

        return thumbnail(data, size, max_pixels=self._settings.max_pixels)

    def _classify(self, data: bytes, *, version: str, top_k: int) -> Json:
        if self._classifier is None:
            self._classifier = _open_classifier(self._settings)
        return self._classifier(data, version=version, top_k=top_k)


def _open_classifier(settings: Settings) -> Callable[..., Json]:
    """Return what classifies the bytes of an image; the engine is loaded when it is first needed."""
    from jobs import model_registry
    from jobs.db.database import Database
    from model import pipeline
    from workers.artifacts import Artifacts
    from workers.classification.probabilities import predict
    from workers.engine_cache import EngineCache

    database = Database(settings.database)
    engines = EngineCache(settings.engine, settings.device, find=Artifacts(settings).find)

    def classify(data: bytes, *, version: str, top_k: int) -> Json:
        with database.read() as connection:
            row = model_registry.resolve(connection, version)
        loaded = engines.load(row)
        limits = pipeline.Limits(max_pixels=settings.max_pixels, read_threads=1, decode_threads=1)
        (outcome,) = pipeline.classify(
            [pipeline.Item(0, "")], read=lambda _: data, engine=loaded.engine, known=lambda _: set(), limits=limits
        )
        if outcome.error is not None or outcome.logits is None or outcome.content_hash is None:
            raise ImageError(*(outcome.error or (ImageErrorCode.ENGINE_ERROR, "the engine has not answered")))
        (found,) = predict({outcome.content_hash: outcome.logits}, loaded.card)
        top = top_labels(found.probabilities, classes=loaded.card.classes, k=top_k)
        parts = found._asdict() | {"content_hash": outcome.content_hash.hex(), "model_version": row.name, "top": top}
        del parts["probabilities"]
        return parts

    return classify
