"""The binomial tree: few rounds, one edge per rank in each direction."""

from collections import Counter

import pytest

from dmlf.conformance.buckets import mock_buckets
from dmlf.conformance.driving import group, run_step
from dmlf.protocol import Phase
from dmlf.protocol.algorithms.tree import fold

TREE = group("tree")


def test_fold_halves_the_group_in_every_round() -> None:
    assert fold(3, 6) == [(slice(0, 3), (((0, 1), (2, 3)), (4, 5)))]


@pytest.mark.parametrize("world_size", range(1, 18))
def test_every_edge_is_used_once_up_and_once_down(world_size: int) -> None:
    sent = run_step(TREE, mock_buckets(TREE, world_size, [3])).outcome.sent
    up = [(m.src, m.dst) for m in sent if m.message.tag.phase is Phase.REDUCE]
    down = [(m.dst, m.src) for m in sent if m.message.tag.phase is Phase.BROADCAST]
    assert sorted(up) == sorted(down)
    assert sorted(src for src, _ in up) == list(range(1, world_size))
    # The parent of a rank is the rank without its lowest set bit.
    assert all(parent == rank & (rank - 1) for rank, parent in up)
    rounds = (world_size - 1).bit_length()
    per_rank = Counter(m.src for m in sent if m.message.tag.phase is not Phase.COMMIT)
    assert max(per_rank.values(), default=0) <= 2 * rounds
