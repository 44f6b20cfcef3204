"""Whether this machine can classify: the engine of the version in production is given one image.

Only the form of the answer is checked: as many numbers as there are classes, all of them finite.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.errors import CarClassifierError
from jobs.settings import Settings
from model.engines import Engine, choose
from model.errors import ModelError
from workers import devices
from workers.runtime import Runtime

__all__ = ["CheckFailed", "CheckedEngine", "check", "describe", "fault_in_child", "fault_of", "start_up_image"]

COMMAND: Sequence[str] = (sys.executable, "-P", "-m", "workers", "check")


class CheckFailed(CarClassifierError):
    """This machine cannot classify; the text says why."""


def start_up_image(size: int) -> NDArray[np.uint8]:
    """Return the start-up image: RGB, uint8 (1, size, size, 3), always the same."""
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    channels = np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None])
    return np.ascontiguousarray(np.stack(channels, axis=-1)[None])


def fault_of(engine: Engine) -> str | None:
    """Return what is wrong with a loaded engine; None if it answers the start-up image."""
    try:
        logits = np.asarray(engine.logits(start_up_image(engine.input_size)))
    except Exception as exc:
        return f"the engine fails on the start-up image: {describe(exc)}"
    expected = (1, len(engine.classes))
    if logits.shape != expected:
        return f"the engine gives numbers of shape {logits.shape} for the start-up image, not {expected}"
    if not np.isfinite(logits).all():
        return "the engine gives numbers that are not finite for the start-up image"
    return None


def describe(error: BaseException) -> str:
    """Return an exception in one line; one that is not ours with the name of its class."""
    text = " ".join(str(error).split())
    if isinstance(error, CarClassifierError | ModelError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class CheckedEngine(NamedTuple):
    """What has answered; `version` is None where none is in production: there is nothing to load yet."""

    device: str
    engine: str
    version: str | None


def check(settings: Settings) -> CheckedEngine:
    """Load the version in production on each device and run the start-up image; for a process of its own.

    Raises CheckFailed, or the errors of the database.
    """
    found = CheckedEngine("", settings.engine, None)
    for index in reversed(range(devices.count(settings))):
        runtime = Runtime(settings, identity="check", notify=lambda *_: False, device=devices.of_child(settings, index))
        try:
            found = _check_device(runtime)
        finally:
            runtime.close()
    return found._replace(device=devices.describe(settings))


def _check_device(runtime: Runtime) -> CheckedEngine:
    version = runtime.production()
    if version is None:
        return CheckedEngine(runtime.device, runtime.settings.engine, None)
    try:
        loaded = runtime.engines.load(version)
    except (CarClassifierError, ModelError):
        raise
    except Exception as exc:
        raise CheckFailed(f"the engine cannot be loaded on {runtime.device}: {describe(exc)}") from exc
    if fault := fault_of(loaded.engine):
        raise CheckFailed(f"{fault} (version {version.name} on {runtime.device})")
    module, _ = choose(runtime.settings.engine, runtime.device, loaded.card)
    own = ":" in runtime.settings.engine
    name = runtime.settings.engine if own else module.rpartition(".")[2].removesuffix("_engine")
    return CheckedEngine(runtime.device, name, version.name)


def fault_in_child(settings: Settings) -> str | None:
    """Run `check` in a child of this process, which stays clean of engines; what is wrong, or None.

    To be called before the process has threads; later, start COMMAND.
    """
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(settings, writer), name="check", daemon=True)
    child.start()
    writer.close()
    try:
        if not reader.poll(settings.stall_seconds):
            return f"the engine has not answered the start-up image within {settings.stall_seconds:g} s"
        answer: str | None = json.loads(reader.recv_bytes())
        return None if answer is None else str(answer)
    except EOFError:
        child.join()
        return f"the engine ends its process ({ending(child.exitcode)}) when it is loaded or given the start-up image"
    finally:
        child.kill()
        child.join()
        reader.close()


def _answer(settings: Settings, writer: Connection) -> None:
    """Send what is wrong, or None."""
    reason = None
    try:
        check(settings)
    except Exception as exc:
        reason = describe(exc)
    writer.send_bytes(json.dumps(reason).encode())


def ending(code: int | None) -> str:
    """Return how a process ended, from its exit code."""
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
