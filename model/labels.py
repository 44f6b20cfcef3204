"""Class names and their parts: `Make Model Body Year`, as in `Acura TL Sedan 2012`."""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["BODIES", "FIRST_YEAR", "LAST_YEAR", "MAKES_OF_SEVERAL_WORDS", "Label", "joined", "parse", "what_is_wrong"]

LONGEST_NAME: Final = 200
FIRST_YEAR: Final = 1885
LAST_YEAR: Final = 2100

MAKES_OF_SEVERAL_WORDS = (
    ("AM", "General"),
    ("Alfa", "Romeo"),
    ("Aston", "Martin"),
    ("Austin", "Healey"),
    ("De", "Tomaso"),
    ("Great", "Wall"),
    ("Land", "Rover"),
    ("Lynk", "&", "Co"),
    ("Mercedes", "Benz"),
    ("Rolls", "Royce"),
)

BODIES = (
    ("Access", "Cab"),
    ("Club", "Cab"),
    ("Crew", "Cab"),
    ("Double", "Cab"),
    ("Extended", "Cab"),
    ("King", "Cab"),
    ("Mega", "Cab"),
    ("Quad", "Cab"),
    ("Regular", "Cab"),
    ("Single", "Cab"),
    ("Cab",),
    ("Cabriolet",),
    ("Convertible",),
    ("Coupe",),
    ("Fastback",),
    ("Hatchback",),
    ("Liftback",),
    ("Limousine",),
    ("Minivan",),
    ("Pickup",),
    ("Roadster",),
    ("SUV",),
    ("Sedan",),
    ("SuperCab",),
    ("SuperCrew",),
    ("Targa",),
    ("Van",),
    ("Wagon",),
)

_MAKES = {tuple(word.casefold() for word in make): len(make) for make in MAKES_OF_SEVERAL_WORDS}
_BODIES = {tuple(word.casefold() for word in body): " ".join(body) for body in BODIES}


@dataclass(frozen=True, slots=True)
class Label:
    """A class name taken apart; `model` is empty and `body` and `year` are None where the name carries none."""

    name: str
    make: str
    model: str
    body: str | None
    year: int | None


def joined(make: str, model: str, body: str | None = None, year: int | None = None) -> Label:
    """Return the label whose name is its parts joined by blanks."""
    name = " ".join(str(part) for part in (make, model, body, year) if part is not None)
    return Label(name=name, make=make, model=model, body=body, year=year)


def what_is_wrong(name: str) -> str | None:
    """Return why `name` cannot name a class, or None: it must fit a card, a database column and one line."""
    if not name:
        return "it is empty"
    if len(name) > LONGEST_NAME:
        return f"it has {len(name)} characters, and {LONGEST_NAME} are the most"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        return "it has a control character, or bytes that are not UTF-8"
    return None


@lru_cache(maxsize=4096)
def parse(name: str) -> Label:
    """Return the parts of a class name; any text is accepted, and what cannot be recognized is left out.

    The make is the first word (or a known make of several), the year a last word of four digits, the body the words
    before it. Where the name continues after the body (`Infiniti G Coupe IPL 2012`) the last body in it counts.
    """
    words = name.split()
    year = _year(words)
    if year is not None:
        words = words[:-1]
    split = _make_length(words)
    make, rest = " ".join(words[:split]), words[split:]
    body, rest = _take_body(rest)
    return Label(name=name, make=make, model=" ".join(rest), body=body, year=year)


def _year(words: list[str]) -> int | None:
    if len(words) < 2 or len(words[-1]) != 4 or not (words[-1].isascii() and words[-1].isdigit()):
        return None
    year = int(words[-1])
    return year if FIRST_YEAR <= year <= LAST_YEAR else None


def _make_length(words: list[str]) -> int:
    folded = tuple(word.casefold() for word in words)
    return max((length for make, length in _MAKES.items() if folded[:length] == make), default=1)


def _take_body(words: list[str]) -> tuple[str | None, list[str]]:
    """Return the body and the words without it; a model that is nothing but its body keeps its name."""
    folded = [word.casefold() for word in words]
    for end in range(len(words), 0, -1):
        for length in (2, 1):
            body = _BODIES.get(tuple(folded[max(0, end - length) : end])) if end >= length else None
            if body is not None:
                return body, words[: end - length] + words[end:] or words
    return None, words
