"""Print what an extra of pyproject.toml needs, the base dependencies included, without the project itself."""

import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extra: str) -> set[str]:
    """Return the requirements of the project with `extra`, and of extras that it names (`name[a,b]`)."""
    found = set(project["dependencies"])
    for line in project["optional-dependencies"][extra]:
        name, bracket, inner = line.partition("[")
        if bracket and name == project["name"]:
            found.update(*(requirements(project, part.strip()) for part in inner.rstrip("]").split(",")))
        else:
            found.add(line)
    return found


if __name__ == "__main__":
    print(*sorted(requirements(tomllib.loads(Path(sys.argv[1]).read_text())["project"], sys.argv[2])), sep="\n")
