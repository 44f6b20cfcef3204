"""Text tables that stream: one layout for all rows, taken from the first of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from jobs.records import Record
from jobs.terminal import safe

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Column", "Row", "field", "moment", "percent", "plain", "print_table", "safe", "times"]

Row: TypeAlias = Record | Mapping[str, Any]  # what is printed: a record, or a document such as a card
R = TypeVar("R", bound=Row)

_CHUNK = 200  # rows that are laid out together
_GAP = "  "
_NARROWEST = 12


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """A column of rows: `show` makes the text of a row's cell (default: the field `name`), `style` its rich style.

    `dim_from` gives the character from which on it is dimmed, None: no part of it. A column that `shrinks` is cut where
    a terminal is narrow, and keeps the start or the end of its text.
    """

    name: str
    show: Callable[[R], str] | None = None
    style: Callable[[R], str] | None = None
    dim_from: Callable[[R], int | None] | None = None
    right: bool = False
    shrinks: Literal["to start", "to end"] | None = None

    def text(self, row: R) -> str:
        """Return the text of the row's cell."""
        return safe(self.show(row) if self.show else plain(field(row, self.name)))


def field(row: Row, name: str) -> Any:
    """Return a field of a row, None where it has none of this name."""
    return row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)


def plain(value: object) -> str:
    """Return a value as a table shows it: times in local time to the minute, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def moment(name: str) -> Callable[[Row], str]:
    """Show the time in a field, which may be an ISO text, as `plain` shows times."""

    def show(row: Row) -> str:
        value = field(row, name)
        return plain(datetime.fromisoformat(value) if isinstance(value, str) else value)

    return show


def times(*names: str) -> list[Column[Any]]:
    """Return a column for each of these times, whose fields end in `_at`."""
    return [Column(name, show=moment(f"{name}_at")) for name in names]


def percent(name: str) -> Callable[[Row], str]:
    """Show the fraction in a field in per cent."""

    def show(row: Row) -> str:
        value = field(row, name)
        return "" if value is None else f"{value:.1%}"

    return show


def print_table(rows: Iterable[R], columns: Sequence[Column[R]], *, header: bool = True) -> int:
    """Print rows to stdout as they come; return how many there were.

    On a terminal the columns that may shrink are cut to its width; elsewhere nothing is cut, and a cell longer than
    those before it widens its column from there on.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    rows, count, widths = iter(rows), 0, [0] * len(columns)
    titles = [Text(column.name.replace("_", " "), style="dim") for column in columns] if header else []
    while chunk := list(islice(rows, _CHUNK)):
        lines = [[_cell(column, row) for column in columns] for row in chunk]
        first = not any(widths)
        if first or not console.is_terminal:
            widths = _widths([titles, *lines] if titles else lines, widths)
        if first and console.is_terminal:
            widths = _fitted(widths, columns, room=console.width)
        with console.capture() as capture:
            for line in [titles, *lines] if first and titles else lines:
                console.print(_line(line, columns, widths), soft_wrap=True)
        sys.stdout.write(capture.get())  # not by the console: where the reader has gone away, it exits with 1
        count += len(chunk)
    return count


def _cell(column: Column[R], row: R) -> Text:
    from rich.text import Text

    text = Text(column.text(row), style=column.style(row) if column.style else "")
    start = column.dim_from(row) if column.dim_from else None
    if start is not None:
        text.stylize("dim", start)
    return text


def _widths(lines: Sequence[Sequence[Text]], least: Sequence[int]) -> list[int]:
    return [max(width, *(line[i].cell_len for line in lines)) for i, width in enumerate(least)]


def _fitted(widths: list[int], columns: Sequence[Column[R]], *, room: int) -> list[int]:
    """The widths, those that may shrink cut back, widest first, until a line fits into `room` cells."""
    widths = list(widths)
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    shrinking = [i for i, column in enumerate(columns) if column.shrinks]
    while excess > 0 and shrinking:
        widest = max(shrinking, key=lambda i: widths[i])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def _cut(text: Text, width: int, *, keep_end: bool) -> Text:
    """A copy of at most `width` cells, with an ellipsis where something is missing."""
    from rich.cells import cell_len
    from rich.text import Text

    if not keep_end or text.cell_len <= width:
        shown = text.copy()
        shown.truncate(width, overflow="ellipsis")
        return shown
    start, room = len(text), width - 1
    while start and (room := room - cell_len(text.plain[start - 1])) >= 0:
        start -= 1
    return Text("…", style=text.style).append_text(text[start:])


def _line(cells: Sequence[Text], columns: Sequence[Column[R]], widths: Sequence[int]) -> Text:
    from rich.text import Text

    line = Text()
    for i, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        shown = _cut(cell, width, keep_end=column.shrinks == "to end")
        if column.right:
            shown.pad_left(width - shown.cell_len)
        elif i < len(cells) - 1:
            shown.pad_right(width - shown.cell_len)
        line.append(_GAP if i else "").append_text(shown)
    return line
