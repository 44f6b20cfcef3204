"""CSV.

A text that a spreadsheet would run as a formula gets an apostrophe in front, and so does a text that starts with an
apostrophe: taking one apostrophe off the front of a cell, where there is one, restores the text exactly (`unguarded`).
Numbers stay numbers.
"""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, TextIO

from jobs.export.columns import Columns
from jobs.export.jsonl import top_texts
from jobs.export.rows import COLUMNS, Row, flat, is_result, json_text, text_over
from jobs.terminal import safe

__all__ = ["guarded", "print_csv", "unguarded", "write_csv"]

# What spreadsheets start a formula with, full-width forms too, also behind blanks that an import strips; and the
# apostrophe itself, so that the guard can be taken off again.
_FORMULA = re.compile("['\t\r\n]|[\\s\ufeff]*[=+\\-@＝＋－＠]")


_SPECIAL = re.compile('[,"\r\n]')
_plain = re.compile('[A-Za-z0-9][^,"\r\n]*').fullmatch  # neither of them: most texts, told at one look


def write_csv(pages: Iterable[Columns], stream: BinaryIO) -> int:
    """Write pages of results with `COLUMNS`; return how many results."""
    count = 0
    with text_over(stream) as text:
        csv.writer(text).writerow(COLUMNS)
        for page in pages:
            text.write("\r\n".join([*_lines(page), ""]))
            count += page.rows
    return count


def _lines(page: Columns) -> Iterator[str]:
    """Yield each row of a page as a line of the csv module, whose own writer would take longer than all the rest."""
    cells = page.cells(_cell)
    cells["top"] = [_in_quotes(text) if '"' in text else text for text in top_texts(page.top)]
    return map(",".join, zip(*(cells[name] for name in COLUMNS), strict=True))


def _cell(value: str | float | None) -> str:
    """Return a value as the text of a cell, guarded, and in quotes where it needs them."""
    if not isinstance(value, str):
        return "" if value is None else repr(value)
    if _plain(value):
        return value
    return _quoted(f"'{value}" if _FORMULA.match(value) else value)


def _quoted(text: str) -> str:
    """Return a text in quotes if it needs them."""
    return _in_quotes(text) if _SPECIAL.search(text) else text


def _in_quotes(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def print_csv(rows: Iterable[Row], stream: TextIO, columns: Sequence[str] | None) -> int:
    """Write rows as they come, with the columns of the first one by default; return how many. A terminal gets control
    characters as escapes.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is not None:
        rows = itertools.chain([first], rows)
        if is_result(first):
            rows = map(flat, rows)
            columns = columns or COLUMNS
    columns = columns or list(first or ())
    writer = csv.writer(stream)
    cell = _safe_cell if stream.isatty() else guarded
    if columns:
        writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([cell(row.get(column)) for column in columns])
        count += 1
    return count


def guarded(value: object) -> object:
    """Return a value as a CSV cell: None empty, numbers as they are, lists and dicts as JSON, text that is safe to
    open.
    """
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else json_text(value)
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """Return the text that `guarded` wrote as `cell`."""
    return cell.removeprefix("'")


def _safe_cell(value: object) -> object:
    cell = guarded(value)
    return safe(cell) if isinstance(cell, str) else cell
