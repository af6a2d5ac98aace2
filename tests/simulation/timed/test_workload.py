"""What a workload and a machine refuse, and how straggling is drawn."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from dmlf.errors import ConfigError
from dmlf.protocol import BucketShape
from dmlf.simulation.timed import Cluster, Link, Straggling, Workload, evenly_ready
from tests.simulation.timed.worlds import cluster, workload


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Link(-1e-6, 1e9), "latency_s"),
        (lambda: Link(float("nan"), 1e9), "latency_s"),
        (lambda: Link(1e-6, 0.0), "bandwidth_bytes_per_s"),
        (lambda: Link(1e-6, float("inf")), "bandwidth_bytes_per_s"),
        (lambda: cluster(overhead_s=-1.0), "overhead_s"),
        (lambda: cluster(reduction_s_per_byte=float("inf")), "reduction_s_per_byte"),
        (lambda: cluster(ranks_per_host=0), "ranks_per_host"),
        (lambda: cluster(server_bandwidth=0.0), "server_bandwidth"),
        (lambda: Straggling(sigma=-0.1), "straggling_sigma"),
        (lambda: Straggling(sigma=float("nan")), "straggling_sigma"),
        (lambda: Straggling(slow_factor=0.5), "slow_factor"),
        (lambda: Straggling(slow_ranks=-1), "slow_ranks"),
        (lambda: Workload(buckets=(), ready_s=(), compute_s=1.0), "ready_s"),
        (lambda: one_bucket(ready_s=(2.0,)), "ready_s"),
        (lambda: one_bucket(ready_s=(-0.5,)), "ready_s"),
        (lambda: one_bucket(compute_s=float("nan")), "compute_s"),
    ],
)
def test_a_bad_number_is_named(make: Any, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.key == key


def one_bucket(**changes: Any) -> Workload:
    values: dict[str, Any] = {"buckets": (BucketShape(3),), "ready_s": (1.0,), "compute_s": 1.0}
    return Workload(**(values | changes))


def test_buckets_are_ready_in_proportion_to_their_parameters() -> None:
    shapes = [BucketShape(30), BucketShape(10), BucketShape(60)]
    assert evenly_ready(shapes, 1.0, 10.0) == pytest.approx([4.0, 5.0, 11.0])


def test_without_overlap_all_are_released_at_the_end() -> None:
    assert workload(5, 5, compute_s=2.0).released_s == (2.0, 2.0)
    released = workload(5, 5, compute_s=2.0, overlap=True).released_s
    assert released == (pytest.approx(0.6 + 0.7), 2.0)


def test_ranks_fill_hosts_and_servers_have_their_own() -> None:
    where: Cluster = cluster(ranks_per_host=3)
    assert [where.host(rank, 7) for rank in range(9)] == [0, 0, 0, 1, 1, 1, 2, 3, 4]


def test_the_expected_maximum_is_the_mean_of_drawn_maxima() -> None:
    straggling = Straggling(sigma=0.4, seed=3)
    for world_size in (1, 7, 200):
        drawn = [max(straggling.factors(step, world_size)) for step in range(2000)]
        assert straggling.expected_maximum(world_size) == pytest.approx(
            statistics.fmean(drawn), rel=0.03
        )
    assert Straggling(sigma=0.4).expected_maximum(100_000) > straggling.expected_maximum(200)


def test_slow_ranks_are_spread_and_no_more_than_there_are() -> None:
    straggling = Straggling(slow_ranks=2, slow_factor=3.0)
    assert straggling.factors(0, 6) == [3.0, 1.0, 1.0, 3.0, 1.0, 1.0]
    assert straggling.factors(0, 1) == [3.0]
    assert straggling.expected_maximum(4) == 3.0
    assert Straggling(slow_ranks=3).is_none
