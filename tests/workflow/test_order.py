"""Measured runs never overlap, and come repeat after repeat in a seeded, shuffled order."""

from __future__ import annotations

import itertools
from pathlib import Path

from tests.workflow.checkout import make_checkout

MATRIX = """\
matrix:
  - tasks: [digits]
    strategies: [serial, parameter_server-queue, ring-queue, ddp-gloo]
    reductions: [float32]
    world_sizes: [1, 2]
    seeds: [0]
    repeats: 2
"""
CELLS = 7


def measured_order(folder: Path, order_seed: int) -> list[tuple[str, int]]:
    """Run the workflow; return (strategy and world size, repeat) in the order of measuring."""
    folder.mkdir()
    checkout = make_checkout(folder)
    checkout.edit("config.yaml", "order_seed: 0", f"order_seed: {order_seed}")
    (folder / "matrix.yaml").write_text(MATRIX)
    checkout.run("train", "--cores", "4", "--configfile", "matrix.yaml")
    calls = [call for call in checkout.calls() if call["arguments"][0] != "data"]
    for before, after in itertools.pairwise(calls):
        assert before["ended"] <= after["began"], "two measured runs overlapped"
    order = []
    for call in calls:
        _, _, strategy, _, world_size, _, rep, _ = call["arguments"][-1].split("/")
        order.append((f"{strategy} {world_size}", int(rep.removeprefix("rep="))))
    return order


def test_order_of_measuring(tmp_path: Path) -> None:
    first = measured_order(tmp_path / "first", order_seed=0)
    again = measured_order(tmp_path / "again", order_seed=0)
    other = measured_order(tmp_path / "other", order_seed=1)

    assert [rep for _, rep in first] == [0] * CELLS + [1] * CELLS
    rounds = [tuple(cell for cell, _ in first[at : at + CELLS]) for at in (0, CELLS)]
    assert sorted(rounds[0]) == sorted(rounds[1])
    assert rounds[0] != rounds[1], "each repeat is shuffled anew"
    assert again == first
    assert other != first
    assert sorted(other) == sorted(first)
