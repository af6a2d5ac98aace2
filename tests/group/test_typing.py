"""Scripts that use the public names pass a strict type checker."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy")
ROOT = Path(__file__).parents[2]
SCRIPT = """
import numpy as np
import numpy.typing as npt

import dmlf

Vector = npt.NDArray[np.float32]


def work(scale: float) -> list[float]:
    with dmlf.init(transport="shm", timeout_s=30, algorithm="ring") as group:
        vector: Vector = np.full(4, scale, dtype=np.float32)
        total: Vector = group.all_reduce(vector, "mean", reduction="exact")
        total = dmlf.broadcast(total, root=group.rank)
        gathered: Vector = dmlf.all_gather(total)
        dmlf.barrier()
        size: int = dmlf.world_size() + dmlf.rank()
        return [float(gathered.sum()), size]


state = dmlf.ElasticState(epoch=0, folder="out", save_every=10)


@dmlf.elastic
def train(state: dmlf.ElasticState, rate: float) -> int:
    for epoch in range(state.epoch, 3):
        state.epoch = epoch
        state.commit()
    return state.commits


done: int = train(state, 0.1)


def main() -> None:
    try:
        results: list[list[float]] = dmlf.launch(work, 2, (1.5,), timeout_s=60)
    except dmlf.DmlfError as error:
        print(error)
    else:
        print(results)
    if dmlf.is_initialized():
        dmlf.shutdown()
"""
WRONG = {
    'dmlf.launch(work, "2")': "arg-type",
    'dmlf.init(timeout="5")': "call-arg",
    "dmlf.all_reduce(np.zeros(3), op=1)": "arg-type",
    "text: str = dmlf.rank()": "assignment",
    "train(state, 'fast')": "arg-type",
    "dmlf.launch(work, 2, (1.5,), min_workers='1')": "arg-type",
    "dmlf.no_such_name()": "attr-defined",
}


def check(source: str, folder: Path) -> str:
    (folder / "script.py").write_text(source)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder), "script.py"]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout


def test_a_right_script_passes_and_mistakes_are_found(tmp_path: Path) -> None:
    assert check(SCRIPT, tmp_path) == "Success: no issues found in 1 source file\n"
    found = check("\n".join([SCRIPT, *WRONG]), tmp_path).splitlines()[:-1]
    assert len([line for line in found if "error:" in line]) == len(WRONG)
    for code in WRONG.values():
        assert any(f"[{code}]" in line for line in found), (code, found)
