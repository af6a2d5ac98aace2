"""The examples of backend `dmlf`, as their own first lines say they are started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STARTERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2"],
    "dmlf run": ["-m", "dmlf", "run", "--nproc", "2"],
}


def shown(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=110, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("starter", STARTERS)
def test_a_script_for_stock_ddp_runs(starter: str) -> None:
    output = shown(*STARTERS[starter], "examples/ddp_over_dmlf.py")
    assert "epoch 2: accuracy 0.9" in output
    assert output.rstrip().endswith("the same on all ranks: True")


def test_the_comparison_with_gloo_shows_a_row() -> None:
    flags = ("--samples-per-rank", "8", "--rounds", "2", "--steps", "2")
    rows = shown("examples/backend_against_gloo.py", *flags).splitlines()
    assert rows[1].split()[0] == "8"
