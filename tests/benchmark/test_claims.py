"""Every predicate on constructed tables: holding, not holding, not distinguishable, no data."""

from __future__ import annotations

from typing import Any

import pytest

from dmlf.benchmark.claims import (
    Outcome,
    accuracy_within,
    all_checked,
    communication_below,
    faster,
    same_exact_bits,
    share_of_ceiling,
)
from dmlf.benchmark.cohorts import Contestant
from dmlf.benchmark.statements import claim_list, judge_claims
from dmlf.benchmark.table import RunRow
from tests.benchmark.rows import one_cohort, rows

RING = Contestant("ring-queue", "float32", 2)
SERIAL = Contestant("serial", "float32", 1)
SLOW = [100.0, 101.0, 102.0, 103.0, 104.0]
MIDDLE = [103.0, 104.0, 105.0, 106.0, 107.0]
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
        (MIDDLE, SLOW, Outcome.NOT_DISTINGUISHABLE),
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
    for claim in claim_list(cohort):
        assert set(claim.texts) == set(Outcome)


@pytest.mark.parametrize(
    ("throughput", "word"),
    [(FAST, "is faster than serial"), ([50.0] * 5, "is slower"), (MIDDLE, "not distinguishable"),
     ([1.0], "No statement")],
)  # fmt: skip
def test_the_text_follows_the_data(throughput: list[float], word: str) -> None:
    judged = {j.claim.name: j for j in judge_claims(one_cohort(serial(), ring(throughput)))}
    text = judged["speed_against_serial/ring-queue/float32/world_size=2"].text
    assert word in text


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
