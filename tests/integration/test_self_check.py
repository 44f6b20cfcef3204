"""The check of an engine: what passes, and the one line that says why something does not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jobs.settings import load
from tests.support.engines import SCRIPTED
from workers import self_check
from workers.self_check import fault_in_child, fault_of, start_up_image


def engine(logits: Callable[[np.ndarray], Any]) -> Any:
    return SimpleNamespace(input_size=8, classes=["a", "b", "c"], logits=logits)


def test_the_image_is_always_the_same() -> None:
    shown = start_up_image(16)
    assert (shown.shape, shown.dtype) == ((1, 16, 16, 3), np.dtype(np.uint8))
    assert (shown == start_up_image(16)).all()
    assert shown.std() > 50


def test_a_sound_engine() -> None:
    assert fault_of(engine(lambda images: np.zeros((len(images), 3), np.float32))) is None


def raises(_images: np.ndarray) -> Any:
    raise MemoryError("no\nmemory")


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (raises, "MemoryError: no memory"),
        (lambda images: np.zeros((1, 2), np.float32), r"shape \(1, 2\)"),
        (lambda images: None, r"shape \(\)"),
        (lambda images: np.full((1, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(logits: Callable[[np.ndarray], Any], says: str) -> None:
    fault = fault_of(engine(logits))
    assert fault is not None
    assert "\n" not in fault
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(fault)


def test_in_a_child(home: Path, run_cars: Callable[..., Any]) -> None:
    assert run_cars("migrate").returncode == 0
    assert fault_in_child(load(engine=SCRIPTED["CARS_ENGINE"])) is None
    assert "nomod" in str(fault_in_child(load(engine="nomod:Cls")))


def test_a_child_that_crashes_or_hangs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "check", lambda _settings: os.kill(os.getpid(), signal.SIGSEGV))
    assert "signal 11" in str(fault_in_child(load()))
    monkeypatch.setattr(self_check, "check", lambda _settings: signal.pause())
    assert "within 2 s" in str(fault_in_child(load(stall_seconds=2)))
