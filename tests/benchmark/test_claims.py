"""Every predicate on constructed tables: holding, not holding, not distinguishable, no data."""

from __future__ import annotations

from typing import Any

import pytest

from dmlf.benchmark.claims import (
    Outcome,
    accuracy_within,
    all_checked,
    communication_below,
    converges_no_slower,
    faster,
    same_exact_bits,
    share_of_ceiling,
    sooner,
)
from dmlf.benchmark.cohorts import Contestant
from dmlf.benchmark.statements import claim_list, judge_claims
from dmlf.benchmark.table import RunRow
from tests.benchmark.rows import one_cohort, rows

RING = Contestant("ring-queue", "float32", 2)
SERIAL = Contestant("serial", "float32", 1)
SLOW = [100.0, 101.0, 102.0, 103.0, 104.0]
MIDDLE = [103.9, 104.9, 105.9, 106.9, 107.9]
NEAR = [101.5, 102.0, 102.5, 103.0, 104.0]
FAST = [200.0, 201.0, 202.0, 203.0, 204.0]


def serial(throughput: list[float] = SLOW, **changes: Any) -> list[RunRow]:
    return rows("serial", 1, throughput, **changes)


def ring(throughput: list[float] = FAST, **changes: Any) -> list[RunRow]:
    return rows("ring-queue", 2, throughput, **changes)


@pytest.mark.parametrize(
    ("mine", "theirs", "outcome"),
    [
        (FAST, SLOW, Outcome.HOLDS),
        (SLOW, FAST, Outcome.DOES_NOT_HOLD),
        (MIDDLE, SLOW, Outcome.HOLDS),  # the intervals overlap; that of the ratio leaves out 1
        (SLOW, MIDDLE, Outcome.DOES_NOT_HOLD),
        (NEAR, SLOW, Outcome.NOT_DISTINGUISHABLE),
        (SLOW, SLOW, Outcome.NOT_DISTINGUISHABLE),
        (FAST[:4], SLOW, Outcome.NO_DATA),
        (FAST, SLOW[:4], Outcome.NO_DATA),
        ([], SLOW, Outcome.NO_DATA),
    ],
)
def test_faster(mine: list[float], theirs: list[float], outcome: Outcome) -> None:
    finding = faster(RING, SERIAL)(one_cohort(serial(theirs), ring(mine)))
    assert finding.outcome == outcome


def test_faster_gives_its_numbers() -> None:
    finding = faster(RING, SERIAL)(one_cohort(serial([100.0] * 5), ring([150.0] * 5)))
    assert finding.numbers["ratio"] == "1.50 [1.50, 1.50]"
    assert finding.numbers["efficiency"] == "0.750 [0.750, 0.750]"


@pytest.mark.parametrize("check", ["failed", "absent"])
def test_a_run_without_a_passed_check_supports_no_claim(check: str) -> None:
    cohort = one_cohort(serial(), ring(check=check))
    assert faster(RING, SERIAL)(cohort).outcome == Outcome.NO_DATA
    assert communication_below(RING, 0.5)(cohort).outcome == Outcome.NO_DATA
    assert accuracy_within("ring-queue", "float32", 0.5)(cohort).outcome == Outcome.NO_DATA
    assert cohort.point(RING) is None


def test_oversubscription_is_carried_along() -> None:
    finding = faster(RING, SERIAL)(one_cohort(serial(), ring(oversubscribed=True)))
    assert finding.oversubscribed


@pytest.mark.parametrize(
    ("shares", "outcome"),
    [
        ([0.2, 0.21, 0.22, 0.2, 0.2], Outcome.HOLDS),
        ([0.7, 0.71, 0.72, 0.7, 0.7], Outcome.DOES_NOT_HOLD),
        ([0.3, 0.4, 0.5, 0.6, 0.7], Outcome.NOT_DISTINGUISHABLE),
        ([0.2] * 4, Outcome.NO_DATA),
    ],
)
def test_communication_below(shares: list[float], outcome: Outcome) -> None:
    runs = [ring([100.0], exposed_fraction=share, rep=rep)[0] for rep, share in enumerate(shares)]
    assert communication_below(RING, 0.5)(one_cohort(serial(), runs)).outcome == outcome


@pytest.mark.parametrize(
    ("accuracy", "outcome"),
    [
        (0.9749, Outcome.HOLDS),
        (0.9651, Outcome.HOLDS),
        (0.9640, Outcome.DOES_NOT_HOLD),
        (0.9760, Outcome.DOES_NOT_HOLD),
        (None, Outcome.NO_DATA),
    ],
)
def test_accuracy_within(accuracy: float | None, outcome: Outcome) -> None:
    cohort = one_cohort(serial(), ring(), ring([1.0], test_accuracy=accuracy, rep=9))
    assert accuracy_within("ring-queue", "float32", 0.5)(cohort).outcome == outcome


def test_accuracy_needs_serial_of_the_same_seed() -> None:
    cohort = one_cohort(serial(), ring(seed=1))
    assert accuracy_within("ring-queue", "float32", 0.5)(cohort).outcome == Outcome.NO_DATA


def test_all_checked() -> None:
    assert all_checked(one_cohort(serial(), ring())).outcome == Outcome.HOLDS
    failing = all_checked(one_cohort(serial(), ring(), ring([1.0], check="failed")))
    assert (failing.outcome, failing.numbers["failed"]) == (Outcome.DOES_NOT_HOLD, "1")
    assert all_checked(one_cohort(serial(), ring(check="absent"))).outcome == Outcome.NO_DATA
    assert all_checked(one_cohort(serial(status="failed"))).outcome == Outcome.NO_DATA


def test_same_exact_bits() -> None:
    exact = {"reduction": "exact"}
    base = rows("serial", 1, SLOW, "exact")
    assert same_exact_bits(one_cohort(base, ring(**exact))).outcome == Outcome.HOLDS
    other = ring([1.0], final_state_sha256="b" * 64, **exact)
    assert same_exact_bits(one_cohort(base, other)).outcome == Outcome.DOES_NOT_HOLD
    seeds = ring(final_state_sha256="b" * 64, seed=1, **exact)
    assert same_exact_bits(one_cohort(base, seeds)).outcome == Outcome.HOLDS
    assert same_exact_bits(one_cohort(base)).outcome == Outcome.NO_DATA
    assert same_exact_bits(one_cohort(base, ring())).outcome == Outcome.NO_DATA


def test_claims_are_unique_and_every_outcome_of_each_has_a_text() -> None:
    cohort = one_cohort(
        serial(), ring(), rows("ddp-gloo", 2, MIDDLE), rows("ring-queue", 1, SLOW),
        rows("serial", 1, SLOW, "exact"), rows("ring-queue", 2, MIDDLE, "exact"),
    )  # fmt: skip
    names = [claim.name for claim in claim_list(cohort)]
    assert len(set(names)) == len(names)
    assert "speed_against_ddp-gloo/ring-queue/float32/world_size=2" in names
    for judged in judge_claims(cohort):
        assert "{" not in judged.text
        assert judged.text.endswith(".")
        assert judged.claim.who in judged.text or judged.claim.subject == "all runs"
        assert "{" not in judged.claim.tested
    for claim in claim_list(cohort):
        assert set(claim.texts) == set(Outcome)


@pytest.mark.parametrize(
    ("throughput", "word"),
    [(FAST, "is faster than serial"), ([50.0] * 5, "is slower"), (NEAR, "not distinguishable"),
     ([1.0], "No statement")],
)  # fmt: skip
def test_the_text_follows_the_data(throughput: list[float], word: str) -> None:
    judged = {j.claim.name: j for j in judge_claims(one_cohort(serial(), ring(throughput)))}
    found = judged["speed_against_serial/ring-queue/float32/world_size=2"]
    assert word in found.text
    assert found.claim.tested == "ring-queue at world size 2 is faster than serial"


def test_the_word_for_a_difference_agrees_with_the_interval_beside_it() -> None:
    for mine in (FAST, MIDDLE, NEAR, SLOW):
        finding = faster(RING, SERIAL)(one_cohort(serial(), ring(mine)))
        low, high = finding.numbers["ratio"].partition("[")[2].rstrip("]").split(", ")
        leaves_out_1 = float(low) > 1 or float(high) < 1
        assert leaves_out_1 == (finding.outcome != Outcome.NOT_DISTINGUISHABLE)


def test_a_claim_names_the_command_that_rebuilds_its_evidence() -> None:
    judged = {j.claim.kind: j for j in judge_claims(one_cohort(serial(), ring()))}
    command = judged["speed_against_serial"].command("report/figures", "report/report.md")
    assert command == "snakemake report/figures/throughput.svg"
    command = judged["correctness"].command("report/figures", "report/report.md")
    assert command == "snakemake report/report.md"


def test_planned_runs_that_left_nothing_still_have_their_claims() -> None:
    gone = ring(status="missing", check="absent", cohort=None)
    judged = {j.claim.name: j for j in judge_claims(one_cohort(serial(), gone))}
    claim = judged["speed_against_serial/ring-queue/float32/world_size=2"]
    assert claim.outcome == Outcome.NO_DATA


def ceiling(throughput: list[float], check: str = "ceiling") -> list[RunRow]:
    return rows("unsynchronized", 2, throughput, check=check, test_accuracy=None)


@pytest.mark.parametrize(
    ("mine", "top", "outcome"),
    [
        ([95.0, 96.0, 97.0, 98.0, 99.0], [100.0] * 5, Outcome.HOLDS),
        ([50.0, 51.0, 52.0, 53.0, 54.0], [100.0] * 5, Outcome.DOES_NOT_HOLD),
        ([75.0, 78.0, 80.0, 82.0, 85.0], [100.0] * 5, Outcome.NOT_DISTINGUISHABLE),
        ([95.0] * 5, [100.0] * 4, Outcome.NO_DATA),
        ([95.0] * 4, [100.0] * 5, Outcome.NO_DATA),
        ([95.0] * 5, [], Outcome.NO_DATA),
    ],
)
def test_share_of_ceiling(mine: list[float], top: list[float], outcome: Outcome) -> None:
    finding = share_of_ceiling(RING, 0.8)(one_cohort(serial(), ring(mine), ceiling(top)))
    assert finding.outcome == outcome
    if outcome == Outcome.HOLDS:
        assert finding.numbers["share"] == "97.0 [95.0, 99.0]"


def test_a_ceiling_is_in_no_other_claim() -> None:
    cohort = one_cohort(serial(), ring(), ceiling([300.0] * 5))
    names = [claim.name for claim in claim_list(cohort)]
    assert not [name for name in names if "unsynchronized" in name]
    assert "share_of_ceiling/ring-queue/float32/world_size=2" in names
    assert all_checked(cohort).numbers["completed"] == "10"
    assert not [p for p in cohort.points() if p.contestant.strategy == "unsynchronized"]
    without = [claim.name for claim in claim_list(one_cohort(serial(), ring()))]
    assert sorted(set(names) - set(without)) == ["share_of_ceiling/ring-queue/float32/world_size=2"]


def test_a_failed_ceiling_is_none() -> None:
    cohort = one_cohort(serial(), ring(), ceiling([300.0] * 5, check="failed"))
    assert cohort.ceiling(2) is None
    assert share_of_ceiling(RING, 0.8)(cohort).outcome == Outcome.NO_DATA


def to_target(
    epochs: list[int | None], seconds: list[float | None] | None = None, **changes: Any
) -> list[RunRow]:
    """Runs of the ring that reach the target after so many epochs."""
    times = seconds or [None if e is None else float(e) for e in epochs]
    return [
        rows(
            "ring-queue", 2, [100.0], rep=rep, target_accuracy=0.95, epochs_to_target=e,
            time_to_target_s=t, **changes,
        )[0]
        for rep, (e, t) in enumerate(zip(epochs, times, strict=True))
    ]  # fmt: skip


def serial_to_target(epochs: int, seed: int = 0, times: list[float] | None = None) -> list[RunRow]:
    return [
        rows(
            "serial", 1, [100.0], rep=rep, seed=seed, target_accuracy=0.95,
            epochs_to_target=epochs, time_to_target_s=time,
        )[0]
        for rep, time in enumerate(times or [float(epochs)] * 5)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "outcome"),
    [
        ([9, 9, 9], Outcome.HOLDS),
        ([7, 9, 8], Outcome.HOLDS),
        ([10, 11, 10], Outcome.DOES_NOT_HOLD),
        ([None, None], Outcome.DOES_NOT_HOLD),
        ([9, 10, None], Outcome.NOT_DISTINGUISHABLE),
        ([], Outcome.NO_DATA),
    ],
)
def test_converges_no_slower(epochs: list[int | None], outcome: Outcome) -> None:
    cohort = one_cohort(serial_to_target(9), to_target(epochs))
    finding = converges_no_slower(RING)(cohort)
    assert finding.outcome == outcome
    if outcome == Outcome.NOT_DISTINGUISHABLE:
        assert finding.numbers == {
            "mine": "9 to never", "serial": "9", "later": "2", "runs": "3",
        }  # fmt: skip


def test_convergence_is_compared_seed_by_seed() -> None:
    base = [*serial_to_target(9), *serial_to_target(5, seed=1)]
    assert converges_no_slower(RING)(one_cohort(base, to_target([5], seed=1))).outcome == "holds"
    slower = one_cohort(base, to_target([7], seed=1))
    assert converges_no_slower(RING)(slower).outcome == Outcome.DOES_NOT_HOLD
    unknown = one_cohort(base, to_target([5], seed=2))
    assert converges_no_slower(RING)(unknown).outcome == Outcome.NO_DATA
    unchecked = one_cohort(base, to_target([5], check="absent"))
    assert converges_no_slower(RING)(unchecked).outcome == Outcome.NO_DATA


@pytest.mark.parametrize(
    ("times", "outcome"),
    [
        ([1.0, 1.1, 1.2, 1.3, 1.4], Outcome.HOLDS),
        ([9.0, 9.1, 9.2, 9.3, 9.4], Outcome.DOES_NOT_HOLD),
        ([4.0, 4.5, 5.0, 5.5, 6.0], Outcome.NOT_DISTINGUISHABLE),
        ([1.0, 1.1, 1.2, 1.3], Outcome.NO_DATA),
        ([1.0, 1.1, 1.2, 1.3, None], Outcome.NO_DATA),
    ],
)
def test_sooner(times: list[float | None], outcome: Outcome) -> None:
    base = serial_to_target(9, times=[4.8, 4.9, 5.0, 5.1, 5.2])
    cohort = one_cohort(base, to_target([9] * len(times), times))
    assert sooner(RING, SERIAL)(cohort).outcome == outcome


def test_a_loaded_point_is_marked_in_its_finding() -> None:
    finding = faster(RING, SERIAL)(one_cohort(serial(), ring(loaded=True)))
    assert (finding.outcome, finding.reservation) == (Outcome.HOLDS, "loaded")
    both = faster(RING, SERIAL)(one_cohort(serial(), ring(loaded=True, oversubscribed=True)))
    assert both.reservation == "oversubscribed, loaded"


def test_weak_scaling_has_its_own_words_and_no_claim_on_convergence() -> None:
    weak: dict[str, Any] = {"experiment": "weak", "samples_per_rank": 128}
    runs = (serial(**weak), ring(**weak), rows("ring-queue", 1, SLOW, **weak))
    judged = judge_claims(one_cohort(*runs))
    kinds = {item.claim.kind for item in judged}
    assert not kinds & {"accuracy", "convergence", "time_to_target"}
    assert {"scaling", "speed_against_serial", "communication"} <= kinds
    texts = [item.text for item in judged if item.claim.world_size == 2]
    assert any("a weak-scaling efficiency of 0.990" in text for text in texts)
    strong = judge_claims(one_cohort(serial(), ring()))
    assert "accuracy" in {item.claim.kind for item in strong}
    assert any("a strong-scaling efficiency of 0.990" in item.text for item in strong)
