"""Words that the project no longer uses do not come back."""

import pytest

from tests.support.processes import CHECKOUT
from tools.glossary_counts import ALLOWED, finds, tracked

pytestmark = pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="git names the files of the project")


def test_no_old_word_is_used() -> None:
    assert [f"{find.file}:{find.line}: {find.word}: {find.text}" for find in finds()] == []


@pytest.mark.parametrize("place", sorted({place for place, _pattern, _why in ALLOWED}))
def test_what_is_allowed_is_a_place_of_the_project(place: str) -> None:
    assert any(name.startswith(place) for name in tracked())
