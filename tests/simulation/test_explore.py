"""Exhaustive exploration of small groups."""

from __future__ import annotations

import pytest

from dmlf.errors import ConfigError, SimulationFailure
from dmlf.protocol import registry
from dmlf.simulation import Explorer, Scenario, World, explore
from dmlf.simulation.agenda import seeded_choices
from dmlf.simulation.invariants import TERMINATION
from tests.simulation.mutants import peer_to_peer, ring_all_reduce

ALGORITHMS = sorted(registry())

STATES = {
    ("parameter_server", 2, 1): (129, 275),
    ("parameter_server", 2, 2): (392, 925),
    ("parameter_server", 3, 1): (769, 2368),
    ("parameter_server", 3, 2): (3337, 11279),
    ("ring", 2, 1): (66, 108),
    ("ring", 2, 2): (147, 248),
    ("ring", 3, 1): (864, 2070),
    ("ring", 3, 2): (2042, 4977),
    ("tree", 2, 1): (35, 52),
    ("tree", 2, 2): (80, 126),
    ("tree", 3, 1): (360, 844),
    ("tree", 3, 2): (904, 2178),
}


@pytest.mark.parametrize(
    ("reduction", "world_size", "steps"),
    [
        ("float32", 1, 2),
        ("float32", 2, 1),
        ("float32", 2, 2),
        ("float32", 3, 1),
        ("float32", 3, 2),
        ("exact", 2, 2),
        ("exact", 3, 1),
    ],
)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_orders_end_alike(name: str, world_size: int, steps: int, reduction: str) -> None:
    summary = explore(name, world_size, steps, (3,), reduction)
    assert summary.fault_free.finals == 1
    (outcome,) = summary.fault_free.outcomes
    assert set(outcome) == {"completed"}
    known = STATES.get((name, world_size, steps))
    if known is not None and reduction == "float32":
        assert (summary.fault_free.states, summary.fault_free.transitions) == known
    assert summary.one_fault.states > summary.fault_free.states
    assert all("waits" not in outcome for outcome in summary.one_fault.outcomes)
    if world_size > 1:
        assert len(summary.single_faults) == 11
    else:
        assert {"crash", "pause", "non_finite"} <= set(summary.single_faults)


@pytest.mark.parametrize(
    ("world_size", "steps", "bucket_numels", "reduction"),
    [
        (1, 2, (3, 2), "float32"),
        (2, 1, (2, 1), "float32"),
        (2, 1, (2,), "float32"),
        (2, 1, (2, 1), "exact"),
    ],
)
def test_all_orders_of_two_servers_end_alike(
    world_size: int, steps: int, bucket_numels: tuple[int, ...], reduction: str
) -> None:
    """With one bucket the second server owns nothing."""
    summary = explore(
        "parameter_server", world_size, steps, bucket_numels, reduction, num_servers=2
    )
    assert "2 servers" in str(summary)
    assert summary.fault_free.finals == 1
    (outcome,) = summary.fault_free.outcomes
    assert outcome == ("completed",) * (world_size + 2)
    assert summary.one_fault.states > summary.fault_free.states
    assert all("waits" not in outcome for outcome in summary.one_fault.outcomes)
    assert len(summary.single_faults) == 11


def test_one_rank_alone_has_three_states() -> None:
    """Before its gradient, after it, and after it has applied."""
    exploration = Explorer(Scenario(registry()["ring"], 1, 1, (1,), "float32")).run()
    assert (exploration.states, exploration.transitions) == (3, 2)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_seeded_runs_and_exploration_end_alike(name: str) -> None:
    scenario = Scenario(registry()[name], 3, 2, (2, 3), "float32")
    (outcome,) = Explorer(scenario).run().outcomes
    runs = [World(scenario, (), seeded_choices(seed)).run() for seed in range(20)]
    assert {run.outcomes for run in runs} == {outcome}
    assert {run.versions for run in runs} == {(2,) * scenario.group_size}
    assert len({run.trace_sha256() for run in runs}) == 20


def test_a_deadlock_is_found_with_its_shortest_schedule() -> None:
    stuck = peer_to_peer("stuck", ring_all_reduce(receives_first=True))
    with pytest.raises(SimulationFailure) as caught:
        Explorer(Scenario(stuck, 2, 1, (2,), "float32")).run()
    assert caught.value.invariant == TERMINATION
    assert "2 events" in caught.value.detail  # both take their gradient, then both wait


def test_every_single_fault_is_survived_or_named_with_three_ranks_and_two_steps() -> None:
    scenario = Scenario(registry()["ring"], 3, 2, (4,), "float32")
    exploration = Explorer(scenario, max_faults=1).run()
    ends = {end for outcome in exploration.outcomes for end in outcome}
    assert ends <= {
        "completed", "crashed", "PeerLost", "DeadlineExceeded", "TransportError",
        "PhaseMismatch", "RoundMismatch", "StepMismatch", "BucketMismatch",
    }  # fmt: skip
    assert {"completed", "crashed", "PeerLost", "DeadlineExceeded", "TransportError"} <= ends


@pytest.mark.parametrize("name", ALGORITHMS)
def test_empty_buckets_pass(name: str) -> None:
    summary = explore(name, 2, 1, (0,), "exact")
    assert summary.fault_free.finals == 1
    assert "non_finite" not in summary.single_faults


def test_bucket_sizes_are_checked() -> None:
    with pytest.raises(ConfigError) as caught:
        explore("ring", 2, 1, (), "float32")
    assert caught.value.key == "bucket_numels"
