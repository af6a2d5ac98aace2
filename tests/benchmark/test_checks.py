"""The correctness verdict of every kind of run, both ways."""

from __future__ import annotations

from typing import Any

import pytest

from dmlf.benchmark.checks import ABSENT, CEILING, FAILED, PASSED, Evidence, check_runs
from tests.benchmark.matrix import final_state, run_config, sha256

LOSSES = [2.0, 1.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]


def evidence(
    strategy: str, world_size: int = 1, rep: int = 0, reduction: str = "float32", **changes: Any
) -> Evidence:
    seed = changes.pop("seed", 0)
    config = run_config(strategy, world_size, rep, reduction, seed=seed)
    protocol = config.algorithm in ("ring", "parameter_server")
    values: dict[str, Any] = {
        "config": config,
        "cohort": "one",
        "final_state_sha256": final_state(config),
        "replicas_identical": True,
        "traffic_matches_theory": True if protocol else None,
        "step_loss": LOSSES,
        "reference_sha256": final_state(config) if protocol and reduction == "float32" else None,
        "reference_problem": "no replay",
    }
    return Evidence(**(values | changes))


def verdict(run: Evidence, *others: Evidence) -> str:
    return check_runs([*others, run])[-1].check


SERIAL = (evidence("serial", rep=0), evidence("serial", rep=1))
SERIAL_EXACT = (evidence("serial", reduction="exact"), evidence("serial", 1, 1, "exact"))
WRONG = sha256("wrong")


def test_a_run_whose_workers_came_or_went_claims_no_order_of_additions() -> None:
    assert verdict(evidence("ring-queue", 2, resized=True), *SERIAL) == ABSENT
    assert verdict(evidence("ring-queue", 1, resized=True), *SERIAL) == ABSENT
    exact = evidence("ring-queue", 2, reduction="exact", resized=True)
    assert verdict(exact, *SERIAL_EXACT) == PASSED
    wrong = evidence("ring-queue", 2, reduction="exact", resized=True, final_state_sha256=WRONG)
    assert verdict(wrong, *SERIAL_EXACT) == FAILED
    alone = evidence("serial")
    assert verdict(alone, evidence("ring-queue", 1, resized=True)) == ABSENT
    assert verdict(alone, evidence("ring-queue", 1)) == PASSED


@pytest.mark.parametrize("strategy", ["ring-queue", "parameter_server-queue"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, PASSED),
        ({"final_state_sha256": WRONG}, FAILED),
        ({"replicas_identical": False}, FAILED),
        ({"traffic_matches_theory": False}, FAILED),
        ({"traffic_matches_theory": None}, ABSENT),
        ({"reference_sha256": None}, ABSENT),
    ],
)
def test_a_float32_protocol_run_must_equal_its_replay(
    strategy: str, changes: dict[str, Any], expected: str
) -> None:
    assert verdict(evidence(strategy, 2, **changes), *SERIAL) == expected


def test_at_world_size_1_a_protocol_must_also_equal_serial() -> None:
    run = evidence("ring-queue", 1)
    assert verdict(run, *SERIAL) == PASSED
    elsewhere = [evidence("serial", rep=rep, final_state_sha256=WRONG) for rep in (0, 1)]
    assert verdict(run, *elsewhere) == FAILED
    assert verdict(run) == PASSED


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_exact_run_must_equal_serial_exact_at_any_world_size(world_size: int) -> None:
    run = evidence("ring-queue", world_size, reduction="exact")
    wrong = evidence("ring-queue", world_size, reduction="exact", final_state_sha256=WRONG)
    assert verdict(run, *SERIAL_EXACT) == PASSED
    assert verdict(wrong, *SERIAL_EXACT) == FAILED
    assert verdict(run, *SERIAL) == ABSENT
    divided = (SERIAL_EXACT[0], evidence("serial", 1, 1, "exact", final_state_sha256=WRONG))
    assert verdict(run, *divided) == ABSENT
    other = evidence("parameter_server-queue", 3, reduction="exact")
    assert verdict(run, other) == ABSENT
    assert verdict(wrong, other) == FAILED


def test_serial_repeats_must_agree() -> None:
    wrong = evidence("serial", rep=2, final_state_sha256=WRONG)
    assert [v.check for v in check_runs(SERIAL)] == [PASSED, PASSED]
    assert [v.check for v in check_runs([*SERIAL, wrong])] == [FAILED] * 3


def test_one_serial_run_alone_proves_nothing_but_a_protocol_may_vouch_for_it() -> None:
    alone = SERIAL[0]
    assert verdict(alone) == ABSENT
    assert verdict(alone, evidence("ring-queue", 1)) == PASSED
    assert verdict(alone, evidence("ring-queue", 2)) == ABSENT
    assert verdict(
        alone, evidence("ddp-gloo", 1, final_state_sha256=final_state(alone.config))
    ) == (ABSENT)
    assert verdict(SERIAL_EXACT[0], evidence("ring-queue", 4, reduction="exact")) == PASSED
    replayed = evidence("serial", reference_sha256=alone.final_state_sha256)
    assert verdict(replayed) == PASSED
    assert verdict(evidence("serial", reference_sha256=WRONG)) == FAILED


@pytest.mark.parametrize(
    ("step", "factor", "expected"),
    [
        (0, 1.0, PASSED),
        (9, 1.0009, PASSED),
        (9, 1.0011, FAILED),
        (0, 0.998, FAILED),
        (10, 2, PASSED),
    ],
)
def test_ddp_must_start_as_serial_does(step: int, factor: float, expected: str) -> None:
    losses = list(LOSSES)
    losses[step] *= factor
    assert verdict(evidence("ddp-gloo", 2, step_loss=losses), *SERIAL) == expected


def test_ddp_needs_equal_replicas_and_a_serial_run_of_its_seed() -> None:
    assert verdict(evidence("ddp-gloo", 2, replicas_identical=False), *SERIAL) == FAILED
    assert verdict(evidence("ddp-gloo", 2)) == ABSENT
    assert verdict(evidence("ddp-gloo", 2, seed=1), *SERIAL) == ABSENT
    assert verdict(evidence("ddp-gloo", 2, step_loss=LOSSES[:3]), *SERIAL) == ABSENT
    divided = (SERIAL[0], evidence("serial", rep=1, final_state_sha256=WRONG))
    assert verdict(evidence("ddp-gloo", 2), *divided) == ABSENT


def test_runs_of_another_cohort_or_seed_are_no_company() -> None:
    other = evidence("serial", rep=1, cohort="two", final_state_sha256=WRONG)
    assert verdict(SERIAL[0], other) == ABSENT
    assert verdict(SERIAL[0], evidence("serial", rep=1, seed=5)) == ABSENT


NATIVE = "native-process_group"


@pytest.mark.parametrize(
    ("reduction", "changes", "expected"),
    [
        ("float32", {}, PASSED),
        ("float32", {"final_state_sha256": WRONG}, PASSED),  # the engine publishes no order
        ("float32", {"step_loss": [2.0, 1.6, *LOSSES[2:]]}, FAILED),
        ("float32", {"replicas_identical": False}, FAILED),
        ("exact", {}, PASSED),
        ("exact", {"final_state_sha256": WRONG}, FAILED),
        ("exact", {"replicas_identical": False}, FAILED),
    ],
)
def test_the_engines_own_all_reduce_is_held_to_what_it_can_promise(
    reduction: str, changes: dict[str, Any], expected: str
) -> None:
    company = SERIAL if reduction == "float32" else SERIAL_EXACT
    assert verdict(evidence(NATIVE, 2, reduction=reduction, **changes), *company) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"replicas_identical": False, "traffic_matches_theory": True}, CEILING),
        ({"replicas_identical": True, "traffic_matches_theory": True}, FAILED),
        ({"replicas_identical": False, "traffic_matches_theory": False}, FAILED),
        ({"replicas_identical": False, "traffic_matches_theory": None}, FAILED),
    ],
)
def test_ranks_that_never_synchronise_are_a_ceiling_and_no_result(
    changes: dict[str, Any], expected: str
) -> None:
    assert verdict(evidence("unsynchronized", 2, **changes), *SERIAL) == expected


def test_a_ceiling_vouches_for_nobody() -> None:
    serial = evidence("serial")
    ceiling = evidence("unsynchronized", 1, traffic_matches_theory=True)
    assert ceiling.final_state_sha256 == serial.final_state_sha256
    assert verdict(serial, ceiling) == ABSENT


def test_ddp_without_serial_of_its_batch_is_held_against_a_run_that_equals_its_replay() -> None:
    """Weak scaling has no serial run with the batch of two ranks."""
    ring = evidence("ring-queue", 2)
    run = evidence("ddp-gloo", 2, traffic_matches_theory=None)
    assert verdict(run) == ABSENT
    assert verdict(run, ring) == PASSED
    far = evidence("ddp-gloo", 2, step_loss=[loss * 1.1 for loss in LOSSES])
    assert verdict(far, ring) == FAILED
    unproved = evidence("ring-queue", 2, final_state_sha256=WRONG)
    assert verdict(run, unproved) == ABSENT
    assert verdict(run, evidence("ring-queue", 2, reduction="exact")) == ABSENT
