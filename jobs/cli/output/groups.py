"""Groups of commands whose help says what each command does in full."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["Group"]


class Group(TyperGroup):
    """A group below `cars`, such as `cars model`."""

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write each command with the first paragraph of its docstring."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_paragraph(command.help)) for name, command in self.commands.items()])


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").split("\n\n")[0].split())
