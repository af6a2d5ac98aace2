"""A failing seed is shrunk to what matters, and its report can be replayed."""

from __future__ import annotations

import pytest

from dmlf.errors import SimulationFailure
from dmlf.simulation import Fault, FaultKind, Scenario, World, replay, shrink
from dmlf.simulation.agenda import seeded_choices
from dmlf.simulation.invariants import NO_RANK_AHEAD, NOTHING_FOREIGN
from tests.simulation.mutants import lax_receive, peer_to_peer, ring_all_reduce, ring_variant
from tests.simulation.test_mutants import run_seeds

LAX = Scenario(ring_variant("step_not_checked", receive=lax_receive("step")), 3, 2, (6,), "float32")
STALE = Fault(FaultKind.STALE, 0, 5, 1, 0)  # the first message of step 1 is preceded by that of 0
HARMLESS = (
    Fault(FaultKind.DELAY, 1, 0, 2, 1_000_000),
    Fault(FaultKind.PAUSE, 2, 3, detail=1_000_000),
)


def test_only_the_fault_that_matters_is_left_and_no_choice() -> None:
    plan = (HARMLESS[0], STALE, HARMLESS[1])
    world = World(LAX, plan, seeded_choices(7))
    with pytest.raises(SimulationFailure) as caught:
        world.run()
    shortest = shrink(LAX, plan, world.choices, caught.value)
    assert shortest.plan == (STALE,)
    assert shortest.choices == ()
    assert shortest.failure.invariant == NOTHING_FOREIGN


def test_a_bug_of_the_schedule_is_shrunk_to_few_choices_and_replays() -> None:
    hasty = Scenario(
        peer_to_peer("no_commit", ring_all_reduce(), commits=False), 3, 2, (6,), "float32"
    )
    for seed in range(100):
        world = World(hasty, (), seeded_choices(seed))
        with pytest.raises(SimulationFailure) as caught:
            world.run()
        if caught.value.invariant == NO_RANK_AHEAD:
            break
    shortest = shrink(hasty, (), world.choices, caught.value)
    assert sum(choice > 0 for choice in shortest.choices) <= 3
    assert replay(hasty, (), shortest.choices).trace == shortest.trace


def test_the_report_names_seed_invariant_faults_schedule_and_events() -> None:
    with pytest.raises(SimulationFailure) as caught:
        run_seeds(LAX, 1_000)
    failure = caught.value
    assert failure.invariant == NOTHING_FOREIGN
    assert failure.seed is not None
    for expected in ("step_not_checked", "faults: stale", "choices: []", "receive"):
        assert expected in failure.detail


def test_a_run_that_breaks_nothing_is_no_counterexample() -> None:
    with pytest.raises(ValueError, match="break no invariant"):
        replay(LAX, (), ())
