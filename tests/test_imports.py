"""Imports point one way, and `import dmlf` loads nothing heavy.

The table of rooms is written down here once; every import of every file is held against it.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dmlf"
ROOMS = (
    "errors",
    "strict_json",
    "plugins",
    "config",
    "env",
    "protocol",
    "numerics",
    "simulation",
    "transport",
    "runtime",
    "group",
    "checkpoint",
    "state",
    "tasks",
    "training",
    "torch",
    "benchmark",
    "conformance",
    "cli",
)
PACKAGE_ROOT = ("__init__", "__main__")  # the public names and `python -m dmlf`
TORCH = ("torch", "torchvision")
TORCH_FREE_AT_IMPORT = ("numerics", "simulation", "group", "checkpoint", "state", "tasks")
HEAVY = ("torch", "torchvision", "snakemake", "pandas", "matplotlib", "safetensors")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, dotted in full."""

    module: str
    line: int
    at_import: bool  # runs when the file is imported, not when a function is called

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def room_of(path: Path) -> str:
    """The room of a file of the package: the first part of its path."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path, source: str) -> list[Import]:
    """Every import of a file, wherever it stands; relative ones are made absolute."""
    package = ("dmlf", *path.relative_to(PACKAGE).parts[:-1])
    return list(_walk(ast.parse(source), package, at_import=True))


def _walk(node: ast.AST, package: tuple[str, ...], at_import: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, at_import)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else ()
        module = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{module}.{alias.name}" if module == "dmlf" else module
            yield Import(name, node.lineno, at_import)
    in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        checked_only = isinstance(node, ast.If) and _is_type_checking(node) and child in node.body
        yield from _walk(child, package, at_import and not in_function and not checked_only)


def _is_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def violations(path: Path, source: str) -> list[str]:
    """What the imports of one file break, one line each."""
    room = room_of(path)
    where = path.relative_to(PACKAGE.parent)
    if room in PACKAGE_ROOT:
        return []
    if room not in ROOMS:
        return [f"{where}: {room!r} is no room; rooms are {', '.join(ROOMS)}"]
    before = ROOMS[: ROOMS.index(room)]
    found = []
    for item in imports_of(path, source):
        if item.top == "dmlf":
            target = item.module.partition(".")[2].split(".")[0]
            is_root = target not in ROOMS  # it re-exports other rooms, so only the last may ask it
            if target not in (room, *before) and not (is_root and room == ROOMS[-1]):
                found.append(f"{where}:{item.line}: {room} may not import {item.module}")
            if room == "protocol" and target not in ("protocol", "errors", "plugins"):
                found.append(f"{where}:{item.line}: protocol is pure, so no {item.module}")
        elif room == "protocol" and item.top not in sys.stdlib_module_names:
            found.append(f"{where}:{item.line}: protocol is pure, so no {item.module}")
        elif room in TORCH_FREE_AT_IMPORT and item.at_import and item.top in TORCH:
            found.append(f"{where}:{item.line}: {room} may import torch in functions only")
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_stands_before_it(path: Path) -> None:
    assert violations(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("errors.py", "import dmlf.config"),
        ("protocol/ring.py", "import numpy"),
        ("protocol/ring.py", "from dmlf.config import RunConfig"),
        ("protocol/ring.py", "def f():\n    from dmlf.numerics import fold_sum"),
        ("protocol/algorithms/ring.py", "from ...numerics import fold_sum"),
        ("protocol/ring.py", "from dmlf import numerics"),
        ("numerics/fold.py", "import dmlf"),
        ("numerics/fold.py", "from dmlf import train"),
        ("numerics/fold.py", "import torch.nn"),
        ("numerics/fold.py", "try:\n    from torch import nn\nexcept ImportError:\n    pass"),
        ("numerics/fold.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
        ("simulation/network.py", "from dmlf.transport.queue import QueueTransport"),
        ("helpers.py", ""),
    ],
)
def test_a_wrong_import_is_found(file: str, source: str) -> None:
    assert violations(PACKAGE / file, source) != []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("__init__.py", "from dmlf.training import train"),
        ("protocol/ring.py", "import typing\nfrom dmlf.errors import ProtocolError"),
        ("protocol/algorithms/ring.py", "from ..tags import Tag"),
        ("numerics/fold.py", "def f():\n    import torch"),
        ("numerics/fold.py", "if TYPE_CHECKING:\n    import torch"),
        ("training/step.py", "import torch\nfrom dmlf.runtime import driver"),
        ("cli/training.py", "import dmlf"),
    ],
)
def test_a_right_import_is_let_through(file: str, source: str) -> None:
    assert violations(PACKAGE / file, source) == []


def loaded_by(module: str) -> set[str]:
    """The top-level modules that a fresh process holds after importing `module`."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=PACKAGE.parent,
    ).stdout
    return {name.split(".")[0] for name in json.loads(shown)}


def test_import_dmlf_loads_nothing_heavy() -> None:
    assert loaded_by("dmlf").isdisjoint(HEAVY)


@pytest.mark.parametrize("room", ["protocol", *TORCH_FREE_AT_IMPORT, "cli"])
def test_a_torch_free_room_loads_without_torch(room: str) -> None:
    assert loaded_by(f"dmlf.{room}").isdisjoint(HEAVY)
