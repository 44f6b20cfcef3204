"""Log lines: one a message, whatever is in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from workers import logs

ODD = "photo\n2026-01-01 ERROR 1 - root: forged\x1b[31m\r.jpg"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_message_stays_on_its_line(style: Literal["text", "json"], capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup(style)
    logging.getLogger("workers").warning("cannot be read: %s", ODD)
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
    if style == "json":
        assert json.loads(line)["message"] == f"cannot be read: {ODD}"
    else:
        assert line.endswith(r"cannot be read: photo\n2026-01-01 ERROR 1 - root: forged\x1b[31m\r.jpg")


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_comes_with_its_traceback(
    style: Literal["text", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.setup(style)
    try:
        raise ValueError("the reason")
    except ValueError:
        logging.getLogger("workers").exception("it failed, größer than thought")
    text = capsys.readouterr().err
    assert "größer" in text
    assert "Traceback" in (json.loads(text)["exception"] if style == "json" else text)
    assert "the reason" in text
