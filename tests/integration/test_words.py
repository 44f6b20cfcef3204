"""Words that the project no longer uses do not come back where they are gone."""

import pytest

from tests.support.processes import CHECKOUT
from tools.glossary_counts import ALLOWED, finds, tracked

# Folders and files from which the old words are gone.
DONE = (
    *("benchmarks/delete.py", "benchmarks/scale.py", "benchmarks/small_jobs.py", "tests/acceptance/test_readme.py"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "README.md", "docker-compose.yml", "docs", "examples", "migrations"),
)
pytestmark = pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="the files of the project are asked of git")


def test_no_old_word_is_used() -> None:
    found = [f"{find.file}:{find.line}: {find.word}: {find.text}" for find in finds() if find.file.startswith(DONE)]
    assert found == []


@pytest.mark.parametrize("place", sorted({place for place, _pattern, _why in ALLOWED}))
def test_what_is_allowed_is_a_place_of_the_project(place: str) -> None:
    assert any(name.startswith(place) for name in tracked())
