"""Spans of time as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.durations import span, written


@pytest.mark.parametrize(
    ("text", "short"),
    [("15m", "15m"), ("900s", "15m"), ("90m", "90m"), ("24h", "1d"), ("2w", "14d"), ("7.5s", "7.5s"), ("0s", "0d")],
)
def test_the_shortest_text(text: str, short: str) -> None:
    assert written(span(text)) == short


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=4_000)))
def test_what_is_written_is_read_as_the_same(length: timedelta) -> None:
    assert span(written(length)) == length
