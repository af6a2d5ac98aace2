"""Virtual time by hand on small groups, and the same messages as the protocol promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlf.errors import SimulationFailure
from dmlf.protocol import Algorithm, Gradient, Recv, Tag, registry
from dmlf.protocol.tags import Phase
from dmlf.simulation.timed import Link, Straggling, TimedWorld
from tests.simulation.timed.worlds import cluster, simulated, workload

ALGORITHMS = sorted(registry())
PLAIN = cluster(overhead_s=0.0, reduction_s_per_byte=0.0)
SILENT = Link(0.0, 1e30)
"""A link on which nothing takes time, to look at one cost alone."""


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 5, 8])
@pytest.mark.parametrize("ranks_per_host", [1, 3])
def test_all_messages_of_the_protocol_are_sent(
    name: str, exact: bool, world_size: int, ranks_per_host: int
) -> None:
    what = workload(7, 1000, 2, exact=exact)
    where = cluster(ranks_per_host=ranks_per_host)
    timing = simulated(name, where, what, world_size, num_servers=2, steps=3)
    servers = registry()[name].server_count(2)
    traffic = registry()[name].traffic(what.buckets, world_size, servers)
    assert timing.messages == 3 * traffic.messages
    assert timing.payload_bytes == 3 * traffic.payload_bytes


def test_two_ranks_of_a_ring_by_hand() -> None:
    where = cluster(port=Link(2.0, 4.0), overhead_s=0.25, reduction_s_per_byte=0.5)
    timing = simulated("ring", where, workload(2, compute_s=10.0), 2)
    # a chunk is one element of 4 bytes: 1 s in the port; its addition takes 2 s
    reduce_scatter_s = 0.25 + 2.0 + 1.0 + 0.25 + 2.0
    all_gather_s = 0.25 + 2.0 + 1.0 + 0.25
    commit_s = 0.25 + 2.0 + 0.25 + 0.25  # a byte takes 0.25 s
    assert timing.first_step_s == 10.0 + reduce_scatter_s + all_gather_s + commit_s


def test_pushes_share_the_port_of_the_server() -> None:
    where = replace(PLAIN, port=Link(0.0, 4.0))
    timing = simulated("parameter_server", where, workload(3, compute_s=1.0), 4)
    # four pushes of 12 bytes, four verdicts of a byte, four pulls of 12 bytes; through one port
    assert timing.first_step_s == 1.0 + 4 * 3.0 + 4 * 0.25 + 4 * 3.0


def test_a_slow_port_of_a_server_slows_both_ways() -> None:
    where = replace(PLAIN, port=Link(0.0, 4e9), server_bandwidth=4.0)
    timing = simulated("parameter_server", where, workload(3, compute_s=1.0), 2)
    assert timing.first_step_s == pytest.approx(1.0 + 2 * 3.0 + 2 * 0.25 + 2 * 3.0, rel=1e-6)


def test_one_worker_waits_for_its_own_port_only() -> None:
    """A message passes both ports at once: its bytes are not paid for twice."""
    where = replace(PLAIN, port=Link(5.0, 4.0))
    timing = simulated("parameter_server", where, workload(3, compute_s=1.0), 1)
    # push, and the pull right behind its verdict
    assert timing.first_step_s == 1.0 + (5.0 + 3.0) + (5.0 + 0.25 + 3.0)


def test_ranks_of_a_host_share_its_port() -> None:
    """Two servers, so that their ports are not what the four ranks of one host wait for."""
    where = replace(PLAIN, port=Link(0.0, 4.0), ranks_per_host=4)
    together = simulated("parameter_server", where, workload(10, 10, compute_s=0.0), 4, 2)
    apart = simulated(
        "parameter_server", replace(where, ranks_per_host=1), workload(10, 10, compute_s=0.0), 4, 2
    )
    assert together.first_step_s == pytest.approx(2 * 4 * 20.0, rel=0.05)
    assert apart.first_step_s == pytest.approx((4 + 1) * 20.0, rel=0.05)


def test_the_earlier_rank_of_a_host_has_the_port_first() -> None:
    """Rank 0 computes for 10 s, and must not hold the port that rank 1 wants after 1 s."""
    where = replace(PLAIN, port=Link(0.0, 4.0), ranks_per_host=2)
    slow = Straggling(slow_ranks=1, slow_factor=10.0)
    what = workload(3, compute_s=1.0)
    timing = simulated("parameter_server", where, what, 2, straggling=slow)
    assert timing.first_step_s == 10.0 + 3.0 + 2 * 0.25 + 2 * 3.0


def test_ranks_of_one_host_use_no_port() -> None:
    where = cluster(port=Link(1e6, 1.0), local=Link(2.0, 4.0), overhead_s=0.0, ranks_per_host=2)
    where = replace(where, reduction_s_per_byte=0.0)
    timing = simulated("ring", where, workload(2, compute_s=0.0), 2)
    assert timing.first_step_s == 3.0 + 3.0 + 2.25


def test_messages_on_a_local_link_keep_order_and_share_it() -> None:
    """Three ranks on one host: each edge of the ring carries a chunk per round, none faster."""
    where = replace(PLAIN, local=Link(0.0, 4.0), ranks_per_host=3)
    timing = simulated("ring", where, workload(3, compute_s=0.0), 3)
    assert timing.first_step_s == 4 * 1.0 + 2 * 0.25


def test_the_simulation_is_deterministic() -> None:
    straggling = Straggling(sigma=0.3, slow_ranks=1, slow_factor=2.0, seed=5)
    runs = [
        simulated("parameter_server", cluster(ranks_per_host=3), workload(9, 900), 7, 2, 4, s)
        for s in (straggling, straggling, replace(straggling, seed=6))
    ]
    assert runs[0] == runs[1]
    assert runs[0].step_ends_s != runs[2].step_ends_s


@pytest.mark.parametrize("name", ALGORITHMS)
def test_overlap_hides_what_fits_behind_backward(name: str) -> None:
    """Each bucket but the last needs much less time than backward's next part."""
    what = workload(1000, 1000, 1000, 1000, compute_s=1.0)
    exposed, hidden = (
        simulated(name, cluster(), replace(what, overlap=overlap), 4).first_step_s
        for overlap in (False, True)
    )
    last = simulated(name, cluster(), workload(1000, compute_s=1.0), 4).first_step_s
    assert hidden < exposed
    if name != "parameter_server":  # its pulls all come after the verdict
        assert hidden == pytest.approx(last)


def test_the_last_bucket_is_held_until_backward_is_over() -> None:
    what = replace(workload(10, 10, compute_s=8.0, overlap=True), ready_s=(1.0, 2.0))
    where = replace(PLAIN, port=SILENT)
    assert simulated("ring", where, what, 3).first_step_s == pytest.approx(8.0)


def test_everybody_waits_for_a_slow_rank() -> None:
    straggling = Straggling(slow_ranks=1, slow_factor=3.0)
    where = replace(PLAIN, port=SILENT)
    timing = simulated(
        "ring", where, workload(10, compute_s=2.0), 4, steps=2, straggling=straggling
    )
    assert timing.step_ends_s == pytest.approx((6.0, 12.0))
    assert timing.slowest_compute_s == (6.0, 6.0)


def test_in_the_long_run_pulls_and_pushes_use_both_directions() -> None:
    """One bucket: the first worker pushes again while the server still answers the last."""
    where = replace(PLAIN, port=Link(0.0, 4.0))
    timing = simulated("parameter_server", where, workload(100, compute_s=0.0), 8, steps=5)
    assert timing.first_step_s == pytest.approx(16 * 100.0, rel=0.01)
    assert timing.step_s == pytest.approx(9 * 100.0, rel=0.01)


def test_ranks_that_wait_for_ever_are_named() -> None:
    def wait(member: object, step: int, num_buckets: int) -> object:
        yield Gradient(step, 0)
        yield Recv(1, Tag(0, step, 0, Phase.PUSH, 0, 1))

    stuck = Algorithm("stuck", wait, None, registry()["ring"].fold, registry()["ring"].traffic)  # type: ignore[arg-type]
    with pytest.raises(SimulationFailure, match=r"\{0: 1, 1: 1\}"):
        TimedWorld(stuck, cluster(), workload(3), 2, 0, 1).run()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["ring", "tree"]),
    world_size=st.integers(2, 12),
    numel=st.integers(1, 10**7),
    latency_s=st.floats(0, 1e-2),
    bandwidth=st.floats(1e6, 1e11),
    gamma=st.floats(0, 1e-8),
    what=st.sampled_from(["latency", "bandwidth", "gamma", "overhead", "compute"]),
)
def test_a_better_machine_is_never_slower(
    name: str,
    world_size: int,
    numel: int,
    latency_s: float,
    bandwidth: float,
    gamma: float,
    what: str,
) -> None:
    where = cluster(port=Link(latency_s, bandwidth), reduction_s_per_byte=gamma)
    load = workload(numel, numel // 3 + 1, overlap=True)
    better, lighter = where, load
    if what == "latency":
        better = replace(where, port=Link(latency_s / 2, bandwidth))
    elif what == "bandwidth":
        better = replace(where, port=Link(latency_s, bandwidth * 2))
    elif what == "gamma":
        better = replace(where, reduction_s_per_byte=gamma / 2)
    elif what == "overhead":
        better = replace(where, overhead_s=0.0)
    else:
        lighter = workload(numel, numel // 3 + 1, compute_s=0.005, overlap=True)
    before = simulated(name, where, load, world_size).first_step_s
    assert simulated(name, better, lighter, world_size).first_step_s <= before * (1 + 1e-12)
    assert before >= load.compute_s
