"""Count the words that the project no longer uses, by package: `python tools/glossary_counts.py [--where WORD]`.

docs/architecture.md has the words that took their place. A word with an innocent use is looked for by a pattern that
leaves that use alone, or has it in `ALLOWED`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("jobs", "model", "workers", "migrations", "tests", "docs", "rest")
DOCS = {"docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples"}
LEFT_OUT = (
    "model/bundled/",  # its card has the names of the release that wrote it
    "tests/fixtures/",  # written by an earlier release
    "migrations/versions/",  # what a migration was is not changed afterwards
    "tools/glossary_counts.py",
    "constraints.txt",
    "LICENSE",
)

# What is counted: the old words, each with a regular expression (searched in every line, upper and lower case alike).
WORDS: dict[str, str] = {
    "ring, rung, bell, doorbell": r"(?<![a-z])(?:ring|rings|ringing|rang|rung|(?:door)?bells?)(?![a-z])",
    "held (of a lease)": r"(?<![a-z])held(?![a-z]|[ _-]out)",
    "give back, take back": r"(?<![a-z])(?:giv(?:e|es|en|ing)|gave|tak(?:e|es|en|ing)|took)[ _](?:\w+[ _]){0,2}?back\b",
    "death": r"(?<![a-z])deaths?(?![a-z])",
    "Learning, Watch": r"(?-i:(?<!Algorithmic )\bLearning\b(?! from a teacher| rate)|\bWatch\b)",
    "judge": r"(?<![a-z])judg(?:e|es|ed|ing|e?ment)(?![a-z])",
    "kept photo": r"\bkept[ _]photos?\b|KeptPhoto",
    "stranger": r"stranger",
    "known car": r"\bknown[ _]?cars?\b|\bKnownCar\b|\blooks_unknown\b|\bknown_scores?\b|\bfit_least\b",
    "fields of a plan: peak, spread, views …": (
        r"[\"'](?:peak|spread|warm_up|average|mixing|views|least|stages|test_sizes)[\"']|\bpeak_rates\b|\bwarm_up\b"
        r"|\.(?:peak|spread|mixing|views|least|test_sizes)\b"
    ),
    "views (of a photo)": r"\bviews\b|\bMakeViews\b|\b(?:random|same|training) view\b",
    "share (as a number)": (
        r"\bshares? (?:of the|of its|from 0)|\b(?:a|as) shares?\b|epoch_share\b|\bshare: float|_share\("
    ),
    "mark (for a digest)": r"\bmarks?\b(?= =|\)|,|\()|\b_mark\b|\bthe mark\b",
    "door": r"(?<![a-z])doors?(?![a-z])",
    "last words": r"\blast[ _]words\b|\bwithout a word\b|\bword(?:'s)? good\b",
    "is no X": (
        r"(?<!there[ _])(?<!where[ _])(?<![a-z])(?:is|are|was|were|be)[ _]no[ _]"
        r"(?!longer|more\b|better|worse|larger|smaller|other|different|less)\w"
    ),
    "an X a Y": (
        r"\b(?:seconds?|images?|photos?|rows?|batch(?:es)?|files?|engines?|process(?:es)?|lines?|one|messages?|class(?:es)?"
        r"|folders?|subfolders?|entry|entries|cost|bytes?|children|tests?|statements?|MiB|MB) an? (?:second|minute|hour"
        r"|image|batch|job|device|class|line|worker|row|photo|child|engine|processor|core|page|value|listing|subfolder"
        r"|file(?! name)|GPU|machine|process|epoch)\b(?! (?:may|needs?|can|has|uses))"
    ),
    "goes on": r"(?<![a-z])(?:go|goes|going|gone)[ _]on(?![a-z])",
    "how many (as what is returned)": r"[;.] [Hh]ow many\.",
    "photo, picture (in code)": r"(?<!min[_-])(?<!Correction)photo(?!_store|shop)|picture",
    "except … as error": r"\bexcept\b.* as error\b",
    "double backticks": r"(?<!`)``\w",
}

# Words that are only refused in some files: what users and their documents call by another word.
ONLY_IN: dict[str, re.Pattern[str]] = {"photo, picture (in code)": re.compile(r"(?:jobs|model|workers)/.*\.py")}


class Find(NamedTuple):
    word: str
    file: str
    line: int
    text: str


# Lines that keep an old word: (file or folder, pattern of the line, why).
ALLOWED: tuple[tuple[str, str, str], ...] = (
    ("", r"SQL views|[Tt]wo more views|views for readers", "views of the database"),
    ("", "epoch_share", "a field of the JSON that `cars training` prints and that runs in the database have"),
    ("tests/unit/test_decisions.py", "known_for_model", "what an earlier release wrote is refused"),
    ("model/formats/jpeg.py", "_HELD_BACK", "bytes that a decoder gets later"),
    ("tests/unit/test_sources.py", "NAMES_HELD", "names in memory"),
    ("model/old_formats.py", "", "reads the fields of earlier releases"),
    ("tests/unit/test_old_formats.py", "", "tests that reading"),
    ("tests/integration/test_training.py", r"\bplan(\[| \|=)", "writes a plan as an earlier release did"),
    ("tests/integration/test_training_task.py", r"^    \"(sizes|test_sizes|views|stages)\":", "the same"),
    ("tests/integration/test_migrations.py", "deaths", "the column of schema 0005"),
    ("model/", r"held", "memory or a photo of the holdout; there are no leases in `model`"),
    ("tests/unit/test_dataset.py", r"held", "photos of the holdout"),
    ("tests/", r"held = (\[|bytearray)|held\.append|del held|len\(held\)|as held|\(held,", "memory, or a locked file"),
    ("jobs/sources/local.py", "NAMES_HELD", "names in memory"),
    ("jobs/db/database.py", "marks", "the question marks of a statement"),
    ("tests/unit/test_cards.py", "doors=5", "the doors of a car"),
    ("jobs/", 'car photos|photos/"|/photos', "what users classify, and folders in examples"),
    ("jobs/cli/commands/report.py", '"--photos"', "an option of users"),
    ("jobs/", r"\bphotos?\b(: |`|\"|\})", "fields of the JSON of a verdict on a listing"),
    ("jobs/web/pages/listings.py", r"verdict\.photo\b", "the same"),
    ("jobs/", "photos_changed", "a field of the JSON of a difference"),
    ("workers/classification/verdicts.py", r"\bphotos?\b(=|`)|one\.photo\b", "the same"),
    ("model/training/train.py", "statistics of plain photos", "a key of cards, as earlier releases wrote them"),
)


def tracked() -> list[str]:
    """Return the files of the project that are text, by their path in it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if not name.startswith(LEFT_OUT) and (ROOT / name).is_file()]


def finds() -> Iterator[Find]:
    """Yield each use of an old word that is not allowed."""
    patterns = {word: re.compile(pattern, re.IGNORECASE) for word, pattern in WORDS.items()}
    for name in tracked():
        try:
            lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            for word, pattern in patterns.items():
                if pattern.search(line) and is_refused_in(word, name) and not is_allowed(name, line):
                    yield Find(word, name, number, line.strip())


def is_refused_in(word: str, name: str) -> bool:
    """Return whether the word is looked for in this file."""
    return word not in ONLY_IN or ONLY_IN[word].fullmatch(name) is not None


def is_allowed(name: str, line: str) -> bool:
    """Return whether the line is one of those that keep an old word."""
    return any(name.startswith(place) and re.search(pattern, line) for place, pattern, _why in ALLOWED)


def column(name: str) -> str:
    """Return the column of the table that a file is counted in."""
    top = name.split("/")[0]
    if top in DOCS:
        return "docs"
    return top if top in COLUMNS else "rest"


def main() -> None:
    """Print the table, or the lines that have one word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", metavar="WORD", help="print the lines instead, for the rows whose name has WORD")
    parser.add_argument("--under", default="", metavar="FOLDER", help="only files whose path begins with this")
    arguments = parser.parse_args()
    found = [find for find in finds() if find.file.startswith(arguments.under)]
    if arguments.where is not None:
        for find in found:
            if arguments.where in find.word:
                print(f"{find.file}:{find.line}: {find.text}")
        return
    counts = Counter((find.word, column(find.file)) for find in found)
    print("| old word |", " | ".join((*COLUMNS, "all")), "|")
    print("|---|", "---|" * (len(COLUMNS) + 1), sep="")
    for word in WORDS:
        row = [counts[word, name] for name in COLUMNS]
        print(f"| {word} |", " | ".join(map(str, (*row, sum(row)))), "|")
    print(
        "| all |", " | ".join(str(sum(counts[word, name] for word in WORDS)) for name in COLUMNS), f"| {len(found)} |"
    )


if __name__ == "__main__":
    main()
