"""Every planted bug is caught, and by the invariant that it breaks."""

from __future__ import annotations

import pytest

from dmlf.errors import SimulationFailure
from dmlf.protocol import Algorithm, Tag
from dmlf.protocol.algorithms import tree
from dmlf.simulation import (
    Explorer,
    Reduction,
    Scenario,
    run_seed,
    run_single_faults,
    simulate_algorithm,
)
from dmlf.simulation.invariants import (
    APPLIED_ONCE,
    CORRECT_SUM,
    EQUAL_HASH,
    NO_RANK_AHEAD,
    NON_FINITE,
    NOTHING_FOREIGN,
    ONE_CONTRIBUTION,
    PAYLOAD_KEPT,
    PUBLISHED_ORDER,
    TERMINATION,
    TYPED_ERRORS,
)
from tests.simulation import mutants

MAX_SEEDS = 2_000
EVEN_BUCKETS = (6, 3)
"""Chunks of equal length: where they differ a wrong chunk is refused as SchemaMismatch."""

SEEDED: list[tuple[Algorithm, Reduction, str]] = [
    # A wrong chunk overwrites one that is still in flight; EVERY_ORDER, which copies what it
    # sends, goes on to find the wrong sum.
    (mutants.ring_variant("off_by_one_chunk", added=0), "float32", PAYLOAD_KEPT),
    (mutants.ring_variant("swapped_all_gather_chunk", stored=1), "float32", PAYLOAD_KEPT),
    (mutants.ring_variant("finish_skipped", finishes=False), "exact", CORRECT_SUM),
    (mutants.ring_variant("receives_before_it_sends", receives_first=True), "float32", TERMINATION),
    (mutants.ring_variant("forwards_received", forwards_received=True), "float32", PAYLOAD_KEPT),
    (mutants.ring_variant("reuses_sent_memory", reuses_sent=True), "float32", PAYLOAD_KEPT),
    (mutants.peer_to_peer("no_commit", mutants.ring_all_reduce(), commits=False), "float32",
     NO_RANK_AHEAD),
    (mutants.peer_to_peer("verdict_ignored", mutants.ring_all_reduce(), heeds_verdict=False),
     "float32", NON_FINITE),
    (mutants.peer_to_peer("rank_0_does_not_apply", mutants.ring_all_reduce(), applies=False),
     "float32", APPLIED_ONCE),
    (mutants.peer_to_peer("tree_with_the_fold_of_the_ring", tree.all_reduce), "float32",
     PUBLISHED_ORDER),
    (mutants.peer_to_peer("untyped_error", mutants.tree_that_crashes, tree.fold), "float32",
     TYPED_ERRORS),
    (mutants.in_order_of_arrival(), "float32", PUBLISHED_ORDER),
    (mutants.server_variant("keeps_a_push_while_it_receives_the_next", None,
                            mutants.server_that_collects(rereads=True)),
     "float32", CORRECT_SUM),
    (mutants.server_variant("double_counted_push", None,
                            mutants.server_adding(lambda m, _: [*range(m.world_size), 0])),
     "float32", ONE_CONTRIBUTION),
    (mutants.server_variant("answers_before_all_pushes", None, mutants.server_answers_early),
     "float32", ONE_CONTRIBUTION),
    (mutants.server_variant("answers_with_old_parameters", None,
                            mutants.server_answers_with_old_parameters),
     "float32", EQUAL_HASH),
    *(
        (mutants.ring_variant(f"ring_{field}_not_checked", receive=mutants.lax_receive(field)),
         "float32", NOTHING_FOREIGN)
        for field in ("generation", "step", "bucket", "phase", "round", "src")
    ),
    *(
        (mutants.server_variant(f"worker_{field}_not_checked", mutants.lax_worker_step(field)),
         "float32", NOTHING_FOREIGN)
        for field in ("generation", "step", "src")
    ),
]  # fmt: skip

EVERY_ORDER: list[tuple[Algorithm, int, str]] = [
    (mutants.ring_variant("off_by_one_chunk", added=0), 0, ONE_CONTRIBUTION),
    (mutants.ring_variant("swapped_all_gather_chunk", stored=1), 0, ONE_CONTRIBUTION),
    (mutants.ring_variant("receives_before_it_sends", receives_first=True), 0, TERMINATION),
    (mutants.peer_to_peer("no_commit", mutants.ring_all_reduce(), commits=False), 0, NO_RANK_AHEAD),
    (mutants.server_variant("answers_before_all_pushes", None, mutants.server_answers_early), 0,
     ONE_CONTRIBUTION),
    (mutants.ring_variant("nothing_checked", receive=mutants.lax_receive(*Tag._fields)), 1,
     NOTHING_FOREIGN),
]  # fmt: skip


SHARDED = {
    "applies_at_once": mutants.server_variant(
        "applies_at_once", None, mutants.sharded_server(applies_at_once=True)
    ),
    "verdict_of_others_ignored": mutants.server_variant(
        "verdict_of_others_ignored", None, mutants.sharded_server(heeds_verdict=False)
    ),
}


def run_seeds(scenario: Scenario, seeds: int) -> None:
    for seed in range(seeds):
        run_seed(scenario, seed)


@pytest.mark.parametrize(
    ("mutant", "reduction", "invariant"), SEEDED, ids=[mutant.name for mutant, *_ in SEEDED]
)
def test_seeded_schedules_catch(mutant: Algorithm, reduction: Reduction, invariant: str) -> None:
    scenario = Scenario(mutant, 3, 2, EVEN_BUCKETS, reduction)
    with pytest.raises(SimulationFailure) as caught:
        run_seeds(scenario, MAX_SEEDS)
    assert caught.value.invariant == invariant
    assert caught.value.seed is not None


@pytest.mark.parametrize(
    ("mutant", "max_faults", "invariant"),
    EVERY_ORDER,
    ids=[mutant.name for mutant, *_ in EVERY_ORDER],
)
def test_exploration_catches(mutant: Algorithm, max_faults: int, invariant: str) -> None:
    with pytest.raises(SimulationFailure) as caught:
        Explorer(Scenario(mutant, 3, 1, (3,), "float32"), max_faults).run()
    assert caught.value.invariant == invariant


@pytest.mark.parametrize("name", SHARDED)
@pytest.mark.parametrize("num_servers", [2, 3])
def test_seeded_schedules_catch_a_server_that_goes_ahead(name: str, num_servers: int) -> None:
    scenario = Scenario(SHARDED[name], 2, 2, (6, 3), "float32", num_servers=num_servers)
    with pytest.raises(SimulationFailure) as caught:
        run_seeds(scenario, MAX_SEEDS)
    assert caught.value.invariant == NO_RANK_AHEAD


def test_exploration_catches_a_server_that_applies_before_the_others_verdicts() -> None:
    scenario = Scenario(SHARDED["applies_at_once"], 2, 1, (2, 1), "float32", num_servers=2)
    with pytest.raises(SimulationFailure) as caught:
        Explorer(scenario).run()
    assert caught.value.invariant == NO_RANK_AHEAD


def test_a_single_fault_catches_a_server_that_ignores_the_others_verdicts() -> None:
    """Every schedule without a NaN goes well: only the verdict of one bucket's owner tells."""
    name = "verdict_of_others_ignored"
    scenario = Scenario(SHARDED[name], 2, 1, (2, 1), "float32", num_servers=2)
    assert Explorer(scenario).run().finals == 1
    with pytest.raises(SimulationFailure) as caught:
        run_single_faults(scenario)
    assert caught.value.invariant == NO_RANK_AHEAD
    assert "buckets do not hold a finite sum" in caught.value.detail


@pytest.mark.parametrize("num_servers", [1, 2, 3])
def test_the_unmutated_server_among_several_passes(num_servers: int) -> None:
    sound = mutants.server_variant("sound_servers", None, mutants.sharded_server())
    summary = simulate_algorithm(sound, 2, 2, 200, 0, "float32", num_servers=num_servers)
    assert summary.schedules == 200
    if num_servers < 3:
        scenario = Scenario(sound, 2, 1, (2, 1), "float32", num_servers=num_servers)
        assert Explorer(scenario).run().finals == 1
        run_single_faults(scenario)


def test_payloads_of_several_ranks_are_valid_together() -> None:
    server = mutants.server_that_collects(rereads=False)
    collecting = mutants.server_variant("collects_a_bucket", None, server)
    assert Explorer(Scenario(collecting, 3, 1, (2, 1), "float32")).run().finals == 1


@pytest.mark.parametrize("reduction", ["float32", "exact"])
def test_the_unmutated_ring_of_the_mutants_passes(reduction: Reduction) -> None:
    sound = mutants.peer_to_peer("sound_ring", mutants.ring_all_reduce())
    assert simulate_algorithm(sound, 3, 2, 200, 0, reduction).schedules == 200
    server = mutants.server_variant(
        "sound_server",
        mutants.lax_worker_step(),
        mutants.server_adding(lambda member, _: list(range(member.world_size))),
    )
    scenario = Scenario(server, 2, 2, (3,), "float32")
    assert Explorer(scenario).run().finals == 1
