"""A loop that is stopped, and goes on in another process, ends with the bits of one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmlf.runtime.launch import process_context, run_ranks

pytest.importorskip("torch")
STEPS = 12


def run(
    kind: str, folder: Path, first: int, last: int, *, random_state: bool = True
) -> tuple[int, str]:
    """What became of those steps, in a process of their own."""
    context = process_context(["tests.state.loop", "torch._dynamo"], threads_per_rank=1)
    argument = (kind, str(folder), first, last, random_state)
    (result,) = run_ranks(context, "tests.state.loop:run", [argument])
    return result


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lbfgs"])
def test_the_bits_are_the_same(tmp_path: Path, kind: str) -> None:
    whole = run(kind, tmp_path / "whole", 0, STEPS)
    assert whole[0] == STEPS
    run(kind, tmp_path / "parts", 0, 5)
    assert run(kind, tmp_path / "parts", 5, STEPS) == whole


def test_without_the_random_state_the_bits_are_others(tmp_path: Path) -> None:
    run("sgd", tmp_path, 0, 3)
    forgetful = run("sgd", tmp_path, 3, 4, random_state=False)
    assert forgetful != run("sgd", tmp_path / "whole", 0, 4)
