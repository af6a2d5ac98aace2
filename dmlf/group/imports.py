"""Which heavy modules a script will import, found without running it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

_TORCH = ("torch", "torchvision")
_DMLF_WITH_TORCH = "dmlf.torch"


def worth_preloading(script: Path) -> list[str]:
    """`torch`, if it is installed and the script or a module beside it imports it.

    Ranks then share one import. What this overlooks is imported by every rank itself.
    """
    if importlib.util.find_spec("torch") is None:
        return []
    waiting, seen = [script], {script}
    while waiting:
        for name in _imported(waiting.pop()):
            top = name.partition(".")[0]
            if top in _TORCH or name.startswith(_DMLF_WITH_TORCH):
                return ["torch"]
            for beside in (script.parent / f"{top}.py", script.parent / top / "__init__.py"):
                if beside.is_file() and beside not in seen:
                    seen.add(beside)
                    waiting.append(beside)
    return []


def _imported(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # running it will tell
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
