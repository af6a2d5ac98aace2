"""The example of the guide to functions that recover runs as the guide says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, blocks

PAGE = (REPOSITORY / "docs" / "library-elastic.md").read_text()


@pytest.mark.parametrize("world_size", [0, 3])
def test_the_example_runs(tmp_path: Path, world_size: int) -> None:
    pytest.importorskip("torch")
    (script,) = (block.text for block in blocks(PAGE) if block.kind == "python")
    (tmp_path / "train.py").write_text(script)
    (command,) = re.findall(r"^dmlf (run .*) train.py$", PAGE, re.M)
    words = ["-m", "dmlf", *command.replace("4", str(world_size)).split()] if world_size else []
    shown = subprocess.run(
        [sys.executable, *words, "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert shown.returncode == 0, shown.stderr
    loss, ranks = re.fullmatch(r"loss (\S+) on (\d) ranks\n", shown.stdout).groups()  # type: ignore[union-attr]
    assert float(loss) < 0.6
    assert int(ranks) == max(1, world_size)
