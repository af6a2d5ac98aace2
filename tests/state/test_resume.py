"""A loop that is stopped, and goes on in another process, ends with the bits of one that is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]
STEPS = 12


def run(kind: str, folder: Path, first: int, last: int, *more: str) -> str:
    script = str(Path(__file__).with_name("loop.py"))
    done = subprocess.run(
        [sys.executable, script, kind, str(folder), str(first), str(last), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lbfgs"])
def test_the_bits_are_the_same(tmp_path: Path, kind: str) -> None:
    whole = run(kind, tmp_path / "whole", 0, STEPS)
    assert whole.startswith(f"{STEPS} ")
    run(kind, tmp_path / "parts", 0, 5)
    assert run(kind, tmp_path / "parts", 5, STEPS) == whole


def test_without_the_random_state_the_bits_are_others(tmp_path: Path) -> None:
    run("sgd", tmp_path, 0, 3)
    forgetful = run("sgd", tmp_path, 3, 4, "forget")
    assert forgetful != run("sgd", tmp_path / "whole", 0, 4)
