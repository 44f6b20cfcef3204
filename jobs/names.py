"""Names that users write: found in whatever case, and the nearest ones where there is none."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from sqlalchemy import Connection

from jobs.db.queries import classes as stored_classes
from jobs.db.queries import versions
from jobs.errors import LabelNotFound, VersionNotFound

__all__ = ["Vocabulary", "nearest"]

SUGGESTED = 3
_LONGEST = 4  # words of a make or model that is suggested


class Vocabulary:
    """The names of the registered model versions, of their classes, and of the predictions that are stored.

    A card may name the parts of its classes. Where it does not, a make is known when it is stored or when a class
    begins with it, a model of car or a body when a class has these words.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @cached_property
    def _cards(self) -> list[Mapping[str, Any]]:
        return [row.card for row in versions.page(self._connection)]

    @cached_property
    def _labels(self) -> list[str]:
        stored = stored_classes.stored_names(self._connection, "label")
        return list(dict.fromkeys([*(name for card in self._cards for name in card["classes"]), *stored]))

    @cached_property
    def _makes(self) -> list[str]:
        return stored_classes.stored_names(self._connection, "make")

    @property
    def _named(self) -> list[Mapping[str, str]]:
        return [part for card in self._cards for part in (card.get("class_parts") or {}).values()]

    def stored(self, part: stored_classes.Part, text: str) -> tuple[str, ...]:
        """Return the spellings of a name that stored predictions have: none of those that no prediction has yet."""
        return _same(text, stored_classes.stored_names(self._connection, part))

    def version(self, text: str) -> tuple[str, ...]:
        """Return the versions of this name, in any case. Raises VersionNotFound."""
        known = versions.names(self._connection)
        if found := _same(text, known):
            return found
        raise VersionNotFound(f"no model version {text!r}{_meant(text, known)}; `cars models` lists them")

    def label(self, text: str) -> tuple[str, ...]:
        """Return the spellings of a class. Raises LabelNotFound."""
        return _same(text, self._labels) or self._unknown("label", text, self._labels)

    def make(self, text: str) -> tuple[str, ...]:
        """Return the spellings of a make. Raises LabelNotFound."""
        makes, length = [*self._makes, *self._parts_named("make")], len(text.split())
        begun = [" ".join(label.split()[:length]) for label in self._labels]
        first_words = (label.split()[0] for label in self._labels if label.strip())
        return _same(text, [*makes, *begun]) or self._unknown("make", text, [*makes, *first_words])

    def model(self, text: str) -> tuple[str, ...]:
        """Return the spellings of a model of car. Raises LabelNotFound."""
        return self._part("model", text)

    def body(self, text: str) -> tuple[str, ...]:
        """Return the spellings of a body. Raises LabelNotFound."""
        return self._part("body", text)

    def _part(self, kind: str, text: str) -> tuple[str, ...]:
        length = len(text.split())
        named = self._parts_named(kind)
        found = _same(text, [*named, *(part for label in self._labels for part in _parts(label, length))])
        if found:
            return found
        parts = (part for label in self._labels for n in range(1, _LONGEST) for part in _parts(label, n))
        return self._unknown(kind, text, [*named, *parts])

    def _parts_named(self, kind: str) -> list[str]:
        return [part[kind] for part in self._named if part.get(kind)]

    def _unknown(self, kind: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
        raise LabelNotFound(
            f"no model version knows the {kind} {text!r}{_meant(text, known)}; `cars model show` lists the classes"
        )


def nearest(text: str, known: Iterable[str]) -> list[str]:
    """Return the known names that come nearest to a text: those that continue it, then those that are spelled
    alike.
    """
    folded = {_folded(name): name for name in known}
    wanted = _folded(text)
    longer = sorted((name for name in folded if wanted and name.startswith(wanted)), key=_after(wanted))
    alike = difflib.get_close_matches(wanted, folded, n=SUGGESTED)
    return [folded[name] for name in dict.fromkeys([*longer, *alike])][:SUGGESTED]


def _after(wanted: str) -> Callable[[str], tuple[bool, int]]:
    """Sort names that begin with it: first those where its last word is whole, then by length."""
    return lambda name: (not name.startswith(f"{wanted} "), len(name))


def _meant(text: str, known: Iterable[str]) -> str:
    near = nearest(text, known)
    if not near:
        return ""
    return f"; the nearest {'is' if len(near) == 1 else 'are'} {', '.join(map(repr, near))}"


def _same(text: str, names: Iterable[str]) -> tuple[str, ...]:
    wanted = _folded(text)
    return tuple(dict.fromkeys(name for name in names if _folded(name) == wanted)) if wanted else ()


def _parts(label: str, length: int) -> Iterator[str]:
    """Yield the runs of so many words after the first."""
    words = label.split()
    return (" ".join(words[at : at + length]) for at in range(1, len(words) - length + 1))


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()
