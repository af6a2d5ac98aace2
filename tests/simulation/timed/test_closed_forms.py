"""Simulator and closed form, where both say what a step takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlf.protocol import BucketShape, registry
from dmlf.simulation.timed import Cluster, Link, Straggling
from dmlf.simulation.timed.closed_forms import (
    CLOSED_FORMS,
    agreement_s,
    closed_form_step_s,
    ring_s,
    tree_s,
)
from tests.simulation.timed.worlds import cluster, simulated, workload

SIZES = [(64,), (100_003,), (25_000_000,), (300_000,) * 8]
UNEQUAL = [
    (1_000_000, 10, 300_000, 5000, 700_000, 64, 64, 2_000_000),
    (5000, 25_000_000),
    tuple(10 * 4**exponent for exponent in range(9)),
]
MACHINES = {
    "no CPU time": cluster(overhead_s=0.0, reduction_s_per_byte=0.0),
    "balanced": cluster(),
    "slow CPU": cluster(reduction_s_per_byte=2e-9),
}


def disagreement(
    name: str, where: Cluster, numels: tuple[int, ...], world_size: int, num_servers: int = 1
) -> float:
    """The largest relative difference, with and without overlap."""
    steps = 4 if registry()[name].has_servers else 1
    found = []
    for overlap in (False, True):
        what = workload(*numels, overlap=overlap)
        truth = simulated(name, where, what, world_size, num_servers, steps).step_s
        form = closed_form_step_s(name, where, what, world_size, num_servers, Straggling())
        found.append(abs(form - truth) / truth)
    return max(found)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("numels", SIZES, ids=str)
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_one_rank_per_host_agrees_within_2_percent(
    name: str, numels: tuple[int, ...], machine: str
) -> None:
    sizes = [1, 2, 4, 8, 16, 32, 64] if name == "tree" else [1, 2, 3, 4, 7, 8, 16, 31, 48, 64]
    for world_size in sizes:
        assert disagreement(name, MACHINES[machine], numels, world_size) < 0.02, world_size


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("numels", SIZES, ids=str)
@pytest.mark.parametrize("ranks_per_host", [2, 4, 8])
@pytest.mark.parametrize("name", ["ring", "tree"])
def test_several_ranks_per_host_agree_within_2_percent(
    name: str, ranks_per_host: int, numels: tuple[int, ...], machine: str
) -> None:
    where = replace(MACHINES[machine], ranks_per_host=ranks_per_host)
    for hosts in (1, 2, 4, 8):
        assert disagreement(name, where, numels, hosts * ranks_per_host) < 0.02, hosts


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("numels", [(300_000,) * 8, *UNEQUAL], ids=str)
@pytest.mark.parametrize("num_servers", [1, 2, 3, 8])
def test_servers_and_buckets_of_any_size_agree_within_2_percent(
    num_servers: int, numels: tuple[int, ...], machine: str
) -> None:
    for world_size in (1, 2, 3, 8, 31):
        error = disagreement("parameter_server", MACHINES[machine], numels, world_size, num_servers)
        assert error < 0.02, world_size


@pytest.mark.parametrize(("num_servers", "bound"), [(2, 0.05), (4, 0.1), (8, 0.18)])
def test_several_servers_of_several_ranks_per_host_are_an_estimate(
    num_servers: int, bound: float
) -> None:
    where = cluster(ranks_per_host=4)
    for numels in (SIZES[3], UNEQUAL[0]):
        error = disagreement("parameter_server", where, numels, 32, num_servers)
        assert error < bound


@pytest.mark.parametrize("ranks_per_host", [2, 4, 8])
def test_one_server_of_many_hosts_of_several_ranks_agrees_within_5_percent(
    ranks_per_host: int,
) -> None:
    where = cluster(ranks_per_host=ranks_per_host)
    for numels in SIZES:
        for hosts in (8, 16):
            world_size = hosts * ranks_per_host
            assert disagreement("parameter_server", where, numels, world_size) < 0.05


@pytest.mark.parametrize("world_size", [3, 5, 6, 7, 33, 48])
def test_the_tree_at_no_power_of_two_is_an_upper_bound(world_size: int) -> None:
    what = workload(1_000_000, 500_000)
    truth = simulated("tree", cluster(), what, world_size).step_s
    form = closed_form_step_s("tree", cluster(), what, world_size, 1, Straggling())
    assert truth <= form < 1.5 * truth


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("world_size", [1, 2, 8, 32])
def test_the_exact_reduction_agrees_within_2_percent(name: str, world_size: int) -> None:
    what = workload(300_000, 300_000, exact=True)
    truth = simulated(name, cluster(), what, world_size, steps=4).step_s
    form = closed_form_step_s(name, cluster(), what, world_size, 1, Straggling())
    assert form == pytest.approx(truth, rel=0.02)


def test_the_textbook_terms() -> None:
    """Thakur et al., section 4.4: a ring of 2 (W - 1) rounds, a tree of 2 ceil(log2 W)."""
    where = cluster(port=Link(0.5, 4.0), overhead_s=0.0, reduction_s_per_byte=0.125)
    bucket = BucketShape(80)  # 320 bytes
    assert ring_s(where, bucket, 8) == 14 * (0.5 + 40 / 4.0) + 7 * 40 * 0.125
    assert tree_s(where, bucket, 8) == 3 * (2 * (0.5 + 320 / 4.0) + 320 * 0.125)
    assert agreement_s(where, 4, 9) == 4 * (0.5 + 1.0)


def test_straggling_costs_the_slowest_rank() -> None:
    """The estimate is the mean slowest rank: near the simulated mean of many steps."""
    what, straggling = workload(1000), Straggling(sigma=0.3, seed=1)
    truth = simulated("ring", cluster(), what, 32, steps=60, straggling=straggling).step_s
    form = closed_form_step_s("ring", cluster(), what, 32, 1, straggling)
    assert form == pytest.approx(truth, rel=0.05)
    slow = Straggling(slow_ranks=2, slow_factor=2.5)
    truth = simulated("ring", cluster(), what, 8, straggling=slow).step_s
    assert closed_form_step_s("ring", cluster(), what, 8, 1, slow) == pytest.approx(truth, rel=1e-3)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(CLOSED_FORMS)),
    world_size=st.integers(1, 100_000),
    ranks_per_host=st.sampled_from([1, 2, 8]),
    num_servers=st.integers(1, 16),
    numel=st.integers(1, 10**8),
    overlap=st.booleans(),
)
def test_a_step_takes_as_long_as_its_computation_and_better_ports_never_hurt(
    name: str,
    world_size: int,
    ranks_per_host: int,
    num_servers: int,
    numel: int,
    overlap: bool,
) -> None:
    where = cluster(ranks_per_host=ranks_per_host)
    what = workload(*[numel] * 4, overlap=overlap)

    def step_s(at: Cluster) -> float:
        return closed_form_step_s(name, at, what, world_size, num_servers, Straggling())

    before = step_s(where)
    assert before >= what.compute_s * (1 - 1e-12)
    if name != "parameter_server":  # queues may turn out worse for it, as in any network
        assert step_s(replace(where, port=Link(2e-5, 2.5e9))) <= before * (1 + 1e-12)
        assert step_s(replace(where, port=Link(1e-5, 1.25e9))) <= before * (1 + 1e-12)


def test_more_servers_help_until_the_workers_ports_are_full() -> None:
    what = workload(*[1_000_000] * 64)
    times = [
        closed_form_step_s("parameter_server", cluster(), what, 64, servers, Straggling())
        for servers in (1, 2, 4, 8, 16, 32, 64)
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] > 10 * times[-1]
