"""The verdict on every point, and what it keeps the point out of."""

from __future__ import annotations

from typing import Any

import pytest

from dmlf.benchmark.cohorts import Contestant
from dmlf.benchmark.noise import Noise, noise, unfit
from dmlf.benchmark.statements import judge_claims
from dmlf.benchmark.table import RunRow
from tests.benchmark.rows import one_cohort, rows

SERIAL = rows("serial", 1, [100.0, 101.0, 102.0, 103.0, 104.0])
CALM = [200.0, 201.0, 202.0, 203.0, 204.0]
WIDE = [180.0, 190.0, 200.0, 210.0, 220.0]
UNSTEADY = [100.0, 150.0, 200.0, 250.0, 300.0]


def verdict(*groups: list[RunRow]) -> Noise:
    return noise(one_cohort(SERIAL, *groups))[1]


def ring(throughput: list[float], **changes: Any) -> list[RunRow]:
    return rows("ring-queue", 2, throughput, **changes)


@pytest.mark.parametrize(
    ("runs", "noticed", "excluded_from"),
    [
        (ring(CALM), (), "nothing"),
        (ring(WIDE), ("wide",), "nothing"),
        (ring(UNSTEADY), ("unsteady",), "claims"),
        (ring(CALM[:4]), ("few runs",), "claims"),
        (ring(CALM, loaded=True), ("loaded",), "answer"),
        (ring(CALM, oversubscribed=True), ("oversubscribed",), "answer"),
        (ring(UNSTEADY, loaded=True), ("unsteady", "loaded"), "claims"),
    ],
)
def test_what_is_noticed(runs: list[RunRow], noticed: tuple[str, ...], excluded_from: str) -> None:
    found = verdict(runs)
    assert (found.noticed, found.excluded_from) == (noticed, excluded_from)


def test_contaminated_runs_make_no_point() -> None:
    lost = ring([1.0], contaminated_by="results/other", throughput_samples_per_s=None, rep=9)
    found = verdict(ring(CALM), lost)
    assert (found.runs, found.contaminated, found.noticed) == (5, 1, ("contaminated",))
    assert found.excluded_from == "nothing"
    found = verdict(ring(CALM[:4]), lost)
    assert (found.runs, found.noticed) == (4, ("few runs", "contaminated"))


@pytest.mark.parametrize("throughput", [UNSTEADY, CALM[:4]])
def test_what_is_excluded_from_claims_makes_none(throughput: list[float]) -> None:
    cohort = one_cohort(SERIAL, ring(throughput))
    contestant = Contestant("ring-queue", "float32", 2)
    assert unfit((contestant, cohort.point(contestant))) is not None
    kinds = {"speed_against_serial", "scaling", "communication"}
    found = [j for j in judge_claims(cohort) if j.claim.kind in kinds]
    assert {str(judged.outcome) for judged in found} == {"no data"}


def test_a_ceiling_has_a_verdict_too() -> None:
    top = rows("unsynchronized", 2, UNSTEADY, check="ceiling")
    found = noise(one_cohort(SERIAL, top))[-1]
    assert (found.contestant.strategy, found.noticed) == ("unsynchronized", ("unsteady",))
