"""Groups of processes that a function was launched in."""

from __future__ import annotations

import numpy as np
import pytest

import dmlf
from tests.group import programs


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_collectives_give_every_rank_the_same(transport: str, world_size: int) -> None:
    results = dmlf.launch(programs.sums, world_size, (10,), transport=transport)
    expected = np.arange(10, dtype=np.float32) * world_size + sum(range(world_size))
    assert len(results) == world_size
    for summed, gathered, root in results:
        np.testing.assert_array_equal(summed, expected)
        np.testing.assert_array_equal(gathered, np.arange(world_size)[:, None].repeat(3, axis=1))
        np.testing.assert_array_equal(root, np.full((2, 2), world_size - 1))


def test_ranks_that_differ_all_learn_how_and_go_on() -> None:
    messages = dmlf.launch(programs.different_calls, 3)
    for rank, message in enumerate(messages):
        assert f"rank {rank} called all_reduce(sum, float32[{3 if rank else 4}]" in message
        assert f"float32[{4 if rank else 3}]" in message.split("but")[1]
