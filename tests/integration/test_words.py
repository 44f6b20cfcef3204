"""Words that the project no longer uses do not come back."""

import re

import pytest

from tests.support.processes import CHECKOUT
from tools.glossary_counts import ALLOWED, WORDS, finds, is_refused_in, tracked

pytestmark = pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="git names the files of the project")


def test_no_old_word_is_used() -> None:
    assert [f"{find.file}:{find.line}: {find.word}: {find.text}" for find in finds()] == []


@pytest.mark.parametrize(
    ("name", "line", "refused"),
    [
        ("model/data/dataset.py", "photos = list(files)", True),
        ("workers/training/attempt.py", "# one picture", True),
        ("jobs/photo_store.py", "class CorrectionPhotoStore:", False),
        ("jobs/client.py", "min_photos: int | None = None,", False),
        ("jobs/client.py", "# photos", True),
        ("docs/model.md", "photos of cars", False),
        ("tests/conftest.py", "def photos() -> None:", False),
    ],
)
def test_an_image_is_called_so_in_code_only(name: str, line: str, refused: bool) -> None:
    word = "photo, picture (in code)"
    assert (is_refused_in(word, name) and re.search(WORDS[word], line, re.IGNORECASE) is not None) is refused


@pytest.mark.parametrize("place", sorted({place for place, _pattern, _why in ALLOWED}))
def test_what_is_allowed_is_a_place_of_the_project(place: str) -> None:
    assert any(name.startswith(place) for name in tracked())
