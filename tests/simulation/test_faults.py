"""What each fault does, on the smallest example, and that a plan is drawn from its seed."""

from __future__ import annotations

import pytest

from dmlf.protocol import registry
from dmlf.simulation import Fault, FaultKind, Scenario, World
from dmlf.simulation.agenda import replayed_choices
from dmlf.simulation.faults import random_plan, single_faults
from dmlf.simulation.scenario import SECOND_NS
from dmlf.simulation.seeded import footprint_of

RING = Scenario(registry()["ring"], 2, 2, (4,), "float32")
SHORT_NS, LONG_NS = SECOND_NS // 10, 3 * SECOND_NS

# The messages of each rank in each step are 0 reduce_scatter, 1 all_gather, 2 commit; its effects
# 0 gradient, 1 send, 2 receive, 3 send, 4 receive, 5 send, 6 receive, 7 apply.
CASES = [
    (Fault(FaultKind.DROP, 0, 0, 1), {"PhaseMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.DROP, 0, 2, 1), {"StepMismatch", "PeerLost"}, {0, 1}),
    (Fault(FaultKind.DROP, 0, 5, 1), {"completed", "PeerLost"}, {1, 2}),
    (Fault(FaultKind.DELAY, 0, 0, 1, SHORT_NS), {"completed"}, {2}),
    (Fault(FaultKind.DELAY, 0, 0, 1, LONG_NS), {"DeadlineExceeded", "PeerLost"}, {0}),
    (Fault(FaultKind.DUPLICATE, 0, 0, 1), {"PhaseMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.REORDER, 0, 0, 1, SHORT_NS), {"PhaseMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.REORDER, 0, 5, 1, SHORT_NS), {"completed"}, {2}),  # nothing overtakes it
    (Fault(FaultKind.CORRUPT, 0, 0, 1, 0), {"TransportError", "PeerLost"}, {0}),
    (Fault(FaultKind.CORRUPT, 0, 0, 1, 1), {"TransportError", "PeerLost"}, {0}),
    (Fault(FaultKind.MISTAG, 0, 0, 1, 0), {"GenerationMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.MISTAG, 0, 0, 1, 1), {"StepMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.MISTAG, 0, 0, 1, 2), {"BucketMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.MISTAG, 0, 0, 1, 3), {"PhaseMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.MISTAG, 0, 0, 1, 4), {"RoundMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.MISTAG, 0, 0, 1, 5), {"SourceMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.MISDIRECT, 0, 0, 1, 0), {"SourceMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.STALE, 0, 0, 1, -1), {"GenerationMismatch", "PeerLost"}, {0}),
    (Fault(FaultKind.STALE, 0, 3, 1, 0), {"StepMismatch", "PeerLost"}, {1}),
    (Fault(FaultKind.CRASH, 0, 0), {"crashed", "PeerLost"}, {0}),
    (Fault(FaultKind.CRASH, 0, 2), {"crashed", "PeerLost"}, {0}),  # while it waits
    (Fault(FaultKind.CRASH, 0, 7), {"crashed", "PeerLost"}, {0, 1}),  # committed, not applied
    (Fault(FaultKind.PAUSE, 0, 2, detail=SHORT_NS), {"completed"}, {2}),
    (Fault(FaultKind.PAUSE, 0, 0, detail=LONG_NS), {"DeadlineExceeded", "PeerLost"}, {0}),
    (Fault(FaultKind.NON_FINITE, 1, 1), {"NonFiniteGradient"}, {1}),
]


@pytest.mark.parametrize(
    ("fault", "ends", "versions"), CASES, ids=[str(fault) for fault, *_ in CASES]
)
def test_one_fault(fault: Fault, ends: set[str], versions: set[int]) -> None:
    run = World(RING, (fault,), replayed_choices(())).run()
    assert run.fired == {fault.kind: 1}
    assert set(run.outcomes) == ends
    assert set(run.versions) == versions


def test_a_message_that_others_overtake_is_refused() -> None:
    server = Scenario(registry()["parameter_server"], 2, 1, (2, 3), "float32")
    overtaken = Fault(FaultKind.REORDER, 2, 0, 0, SHORT_NS)  # the verdict, behind the parameters
    run = World(server, (overtaken,), replayed_choices(())).run()
    assert run.outcomes == ("PhaseMismatch", "completed", "completed")
    assert run.versions == (0, 1, 1)


def test_ranks_end_within_a_timeout_of_the_fault() -> None:
    server = Scenario(registry()["parameter_server"], 2, 1, (3,), "float32")
    run = World(server, (Fault(FaultKind.DROP, 0, 0, 2),), replayed_choices(())).run()
    assert set(run.outcomes) == {"DeadlineExceeded", "PeerLost"}
    assert SECOND_NS < run.now_ns < SECOND_NS + 10_000_000


def test_every_single_fault_fires() -> None:
    for fault in single_faults(RING, footprint_of(RING)):
        run = World(RING, (fault,), replayed_choices(())).run()
        assert run.fired == {fault.kind: 1}, fault


def test_plans_are_drawn_from_their_seed() -> None:
    footprint = footprint_of(RING)
    plans = [random_plan(RING, footprint, seed) for seed in range(200)]
    assert plans == [random_plan(RING, footprint, seed) for seed in range(200)]
    assert {len(plan) for plan in plans} == {0, 1, 2, 3}
    assert {fault.kind for plan in plans for fault in plan} == set(FaultKind)
