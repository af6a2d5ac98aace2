"""Nothing is decided by the wall clock, which anybody may set: it only dates records."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "dmlf"
WALL = {"time", "time_ns", "localtime", "gmtime", "ctime", "now", "utcnow", "today"}
DATES = ("started_at", "finished_at")


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every call that reads the wall clock; `time.monotonic` and such do not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if node.func.attr in WALL and owner.split(".")[-1] in {"time", "datetime", "date"}:
                yield node.lineno, ast.unparse(node)


def test_the_finder_finds() -> None:
    source = "time.time()\ndatetime.now(UTC)\ntime.monotonic()\nclock.now()\nperf.time()"
    assert [line for line, _ in uses(ast.parse(source))] == [1, 2]


def test_the_wall_clock_only_dates_records() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for number, call in uses(ast.parse(source)):
            if not any(name in lines[number - 1] for name in DATES):
                found.append(f"{path.relative_to(PACKAGE)}:{number}: {call}")
    assert found == []


def test_no_clock_is_imported_by_its_bare_name() -> None:
    """So that the test above sees every use."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not WALL & {alias.name for alias in node.names}, path
