"""The tests' own rules: what they share is in tests/support, and what starts processes is not a unit test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
MODULES = sorted(TESTS.glob("*/test_*.py"))
STARTS_PROCESSES = {
    "subprocess",
    "multiprocessing",
    "tests.support.servers",
    "tests.support.processes.WorkerProcess",
    "tests.support.processes.environment",
    "tests.support.processes.run_cars",
}
FIXTURES_WITH_PROCESSES = {"backend", "broker_url", "migrated_pg_url", "pg_url", "run_cars", "server_backend", "worker"}


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules, and names from modules, that are imported anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}"
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def name(module: Path) -> str:
    return module.relative_to(TESTS).as_posix()


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_no_test_module_imports_another(module: Path) -> None:
    names = set(imported(ast.parse(module.read_text(encoding="utf-8"))))
    from_tests = {name for name in names if name.startswith(("tests", "."))}
    assert {name for name in from_tests if not name.startswith("tests.support")} == set()


@pytest.mark.parametrize("module", [path for path in MODULES if path.parent.name == "unit"], ids=name)
def test_unit_tests_start_no_processes(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    arguments = {argument.arg for function in functions for argument in function.args.args}
    assert set(imported(tree)) & STARTS_PROCESSES == set()
    assert arguments & FIXTURES_WITH_PROCESSES == set()
