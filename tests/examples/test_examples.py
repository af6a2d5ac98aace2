"""The examples run as their first lines say, and do what the guide claims."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT_S = 100
pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch")


def run(*words: str) -> str:
    """What `python words...` prints; it must end well."""
    shown = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def launched(world_size: int, script: str, *arguments: str) -> str:
    words = ["-m", "dmlf", "run", "--nproc", str(world_size), str(EXAMPLES / script)]
    return run(*words, *arguments)


def torchrun(script: str, *arguments: str) -> str:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return run(*words, str(EXAMPLES / script), *arguments)


def changed_lines(before: str, after: str) -> list[str]:
    """Lines of code that differ, as a diff shows them."""
    sources = []
    for name in (before, after):
        _, _, code = (EXAMPLES / name).read_text(encoding="utf-8").split('"""', 2)
        sources.append(code.splitlines())
    lines = difflib.unified_diff(*sources, n=0, lineterm="")
    return [line for line in lines if line[1:] and not line.startswith(("+++", "---", "@@"))]


def largest_difference(one: Path, other: Path) -> float:
    import torch

    states = [torch.load(path, weights_only=True) for path in (one, other)]
    assert states[0].keys() == states[1].keys()
    return max(float((states[0][key] - states[1][key]).abs().max()) for key in states[0])


def test_a_ddp_script_runs_with_one_line_changed(tmp_path: Path) -> None:
    assert changed_lines("ddp_stock.py", "ddp_migration.py") == [
        "-from torch.nn.parallel import DistributedDataParallel",
        "+from dmlf import DistributedDataParallel",
    ]
    stock, migrated, launched_too = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    torchrun("ddp_stock.py", str(stock))
    torchrun("ddp_migration.py", str(migrated))
    launched(2, "ddp_migration.py", str(launched_too))
    assert largest_difference(stock, migrated) <= 1e-6
    assert largest_difference(migrated, launched_too) == 0.0


def test_a_horovod_script_agrees_with_stock_ddp(tmp_path: Path) -> None:
    stock, migrated = tmp_path / "a.pt", tmp_path / "b.pt"
    torchrun("ddp_stock.py", str(stock))
    launched(2, "horovod_migration.py", str(migrated))
    assert largest_difference(stock, migrated) <= 1e-6


def test_the_network_on_images_has_the_same_bits_on_any_number_of_ranks() -> None:
    alone = run(str(EXAMPLES / "cnn.py"))
    assert float(re.findall(r"accuracy (\S+),", alone)[0]) > 0.9
    assert [launched(world_size, "cnn.py") for world_size in (2, 3)] == [alone] * 2


def test_the_language_model_learns_on_two_ranks() -> None:
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", launched(2, "transformer_lm.py"))]
    assert losses[-1] < 0.5 * losses[0]


def test_a_killed_rank_changes_no_bit_of_the_elastic_example(tmp_path: Path) -> None:
    alone = run(str(EXAMPLES / "elastic.py"), str(tmp_path / "a.pt"))
    script = tmp_path / "killed.py"
    source = (EXAMPLES / "elastic.py").read_text(encoding="utf-8")
    mark = tmp_path / "mark"
    dies = (
        "            if state.commits == 9 and dmlf.rank() == 1 and not mark.exists():\n"
        "                mark.touch()\n"
        "                os.kill(os.getpid(), 9)\n"
    )
    head = "            optimizer.zero_grad()\n"
    assert source.count(head) == 1
    top = f"import os\nimport pathlib\nmark = pathlib.Path({str(mark)!r})\n"
    script.write_text(top + source.replace(head, dies + head))
    words = ["-m", "dmlf", "run", "--nproc", "3", "--min-workers", "2", str(script)]
    killed = run(*words, str(tmp_path / "b.pt"))
    assert mark.exists()
    assert alone.splitlines()[0] == "40 steps, world sizes [1]"
    assert killed.splitlines()[1] == alone.splitlines()[1]
    assert largest_difference(tmp_path / "a.pt", tmp_path / "b.pt") == 0.0
