"""docs/architecture.md names every package, no folder that does not exist, and the floors of the contracts."""

import re
import tomllib

from tests.support.processes import CHECKOUT

PAGE = (CHECKOUT / "docs" / "architecture.md").read_text()
TREE = re.search(r"^## The tree\n+```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FLOORS = re.search(r"^## Floors\n.*?^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
WHOLE = ("jobs", "model", "workers", "tests")


def named_folders() -> set[str]:
    """Return the folders of the tree; the indentation of a line gives its depth."""
    assert TREE
    found, above = set(), list[str]()
    for line in TREE[1].splitlines():
        indented = re.match(r"( *)(\w+)/ +\S", line)
        assert indented, line
        above[len(indented[1]) // 2 :] = [indented[2]]
        found.add("/".join(above))
    return found


def packages(name: str) -> set[str]:
    """Return a package of the checkout and those in it."""
    return {path.parent.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / name).rglob("*.py")}


def test_every_package_has_a_line() -> None:
    assert set().union(*map(packages, WHOLE)) - named_folders() == set()


def test_every_line_is_of_a_folder_that_exists() -> None:
    assert [name for name in sorted(named_folders()) if not (CHECKOUT / name).is_dir()] == []


def test_the_floors_are_those_of_the_contracts() -> None:
    assert FLOORS
    written: dict[str, list[set[str]]] = {}
    for line in FLOORS[1].splitlines():
        package, modules = line[:8].strip(), set(line[8:].split())
        written.setdefault(package or next(reversed(written)), []).append(modules)
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {contract["containers"][0]: contract["layers"] for contract in contracts if contract["type"] == "layers"}
    assert written == {package: [set(re.findall(r"\w+", layer)) for layer in layers[package]] for package in layers}
