"""What a part's fingerprint leaves out, nothing of that part imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.workflow.checkout import REPOSITORY

PACKAGE = REPOSITORY / "dmlf"
INPUTS = REPOSITORY / "workflow" / "rules" / "inputs.smk"
# These know every part, and load what one needs when it is asked for.
ENTRY_POINTS = {
    "__init__.py",
    "__main__.py",
    "cli/__init__.py",
    "cli/benchmark.py",
    "cli/collective.py",
    "cli/faults.py",
    "cli/overhead.py",
}


def read_inputs() -> dict[str, Any]:
    """Run inputs.smk, which is plain Python."""
    names: dict[str, Any] = {}
    exec(compile(INPUTS.read_text(), INPUTS, "exec"), names)
    return names


def kept(part: str) -> set[str]:
    """The Python files, relative to the package, that decide the results of a part."""
    sources = map(Path, read_inputs()["package_sources"](SimpleNamespace(part=part)))
    inside = (path.resolve().relative_to(PACKAGE).as_posix() for path in sources)
    return {path for path in inside if path.endswith(".py")}


def imported(file: str) -> Iterator[str]:
    """The package's files that a file imports, also from within its functions."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, *inside = name.split(".")
            for path in ("/".join(inside) + ".py", "/".join([*inside, "__init__.py"])):
                if top == "dmlf" and (PACKAGE / path).is_file():
                    yield path


@pytest.mark.parametrize(
    "part", ["training", "collective", "faults", "gathering", "plotting", "projecting", "reporting"]
)
def test_no_source_of_a_part_imports_what_is_left_out(part: str) -> None:
    sources = kept(part)
    assert "config.py" in sources
    strays = [
        f"{file} imports {other}"
        for file in sorted(sources - ENTRY_POINTS)
        for other in imported(file)
        if other not in sources
    ]
    assert strays == []


def test_every_glob_names_a_file() -> None:
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    for globs in read_inputs()["SOURCES_LEFT_OUT"].values():
        assert [glob for glob in globs if not any(fnmatch(file, glob) for file in files)] == []
