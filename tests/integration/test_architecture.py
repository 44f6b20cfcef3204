"""docs/architecture.md names every folder of the packages and the tests, and no other."""

import re

from tests.support.processes import CHECKOUT

PAGE = (CHECKOUT / "docs" / "architecture.md").read_text()
TREE = re.search(r"^## The tree\n+```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
WHOLE = ("jobs", "model", "workers", "tests")
WITHOUT_A_LINE = {"model/bundled/plots"}


def named_folders() -> set[str]:
    """The folders of the tree, whose depth is told by how far a line is indented."""
    assert TREE
    found, above = set(), list[str]()
    for line in TREE[1].splitlines():
        indented = re.match(r"( *)(\w+)/ +\S", line)
        assert indented, line
        above[len(indented[1]) // 2 :] = [indented[2]]
        found.add("/".join(above))
    return found


def folders_with_files(name: str) -> set[str]:
    """A folder of the checkout and those in it, without what only Python has left there."""
    files = [path for path in (CHECKOUT / name).rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {path.parent.relative_to(CHECKOUT).as_posix() for path in files}


def test_every_folder_has_a_line() -> None:
    assert set().union(*map(folders_with_files, WHOLE)) - WITHOUT_A_LINE <= named_folders()


def test_every_line_is_of_a_folder_that_exists() -> None:
    assert [name for name in sorted(named_folders()) if not (CHECKOUT / name).is_dir()] == []
