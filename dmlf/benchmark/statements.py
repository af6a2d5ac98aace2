"""The claims that the report makes: which predicates are asked, about whom, and in what words."""

from __future__ import annotations

from dmlf.benchmark.claims import (
    Claim,
    Judged,
    Outcome,
    Predicate,
    accuracy_within,
    all_checked,
    communication_below,
    converges_no_slower,
    faster,
    same_exact_bits,
    share_of_ceiling,
    sooner,
)
from dmlf.benchmark.cohorts import Cohort, Contestant
from dmlf.benchmark.table import STRONG

ACCURACY_POINTS = 0.5
COMMUNICATION_SHARE = 0.5
CEILING_SHARE = 0.8
PEER = "ddp-gloo"

Texts = tuple[str, str, str]


def judge_claims(cohort: Cohort) -> list[Judged]:
    """Judge every claim that the planned runs call for."""
    return [claim.judge(cohort) for claim in claim_list(cohort)]


def claim_list(cohort: Cohort) -> list[Claim]:
    """The claims for a cohort, from what was planned (not from what came out)."""
    contestants = cohort.contestants()
    claims = [_all_checked()]
    if any(contestant.reduction == "exact" for contestant in contestants):
        claims.append(_same_bits())
    distributed = [c for c in contestants if c.strategy != "serial"]
    claims += [_beats_serial(c, cohort.experiment) for c in distributed]
    peers = {c.world_size for c in distributed if c.strategy == PEER}
    claims += [
        _beats_peer(c)
        for c in distributed
        if c.strategy != PEER and c.reduction == "float32" and c.world_size in peers
    ]
    ceilings = cohort.planned_ceilings()
    claims += [
        _near_ceiling(c)
        for c in distributed
        if c.reduction == "float32" and c.world_size in ceilings
    ]
    claims += [_more_workers_help(c, cohort.experiment) for c in distributed if c.world_size > 1]
    if cohort.experiment == STRONG:  # with another global batch, another training is to be expected
        names = dict.fromkeys((c.strategy, c.reduction) for c in distributed)
        claims += [_same_accuracy(*name) for name in names]
        claims += [_converges_no_slower(c) for c in distributed]
        claims += [_sooner_to_target(c) for c in distributed if c.world_size > 1]
    claims += [_mostly_computing(c) for c in distributed if c.world_size > 1]
    planned = set(contestants)
    claims += [
        _exact_costs(c) for c in contestants if c.reduction == "exact" and _float32(c) in planned
    ]
    return claims


def _claim(
    kind: str,
    about: Contestant | None,
    figure: str | None,
    asked: str,
    texts: Texts,
    predicate: Predicate,
) -> Claim:
    """Build a claim; texts: for holding, for not holding, for not distinguishable."""
    subject = "all runs" if about is None else str(about)
    parts = [kind] if about is None else [kind, about.strategy, about.reduction]
    world_size = None if about is None or about.world_size == 0 else about.world_size
    return Claim(
        name="/".join(parts if world_size is None else [*parts, f"world_size={world_size}"]),
        kind=kind,
        subject=subject,
        world_size=world_size,
        figure=figure,
        asked=asked,
        texts={
            Outcome.HOLDS: texts[0],
            Outcome.DOES_NOT_HOLD: texts[1],
            Outcome.NOT_DISTINGUISHABLE: texts[2],
            Outcome.NO_DATA: f"No statement on {kind.replace('_', ' ')} of {{who}}: {{reason}}.",
        },
        predicate=predicate,
    )


def _all_checked() -> Claim:
    return _claim(
        "correctness",
        None,
        None,
        "every training run passes its correctness check",
        (
            "All {completed} training runs passed their correctness check.",
            "{failed} of {completed} training runs failed their correctness check; "
            "{passed} passed and {absent} had nothing to be compared with.",
            "",
        ),
        all_checked,
    )


def _same_bits() -> Claim:
    return _claim(
        "exact_bits",
        None,
        None,
        "all exact runs of a seed end in the same bits",
        (
            "All {runs} exact runs of {contestants} contestants (strategy and world size) ended in "
            "the same bits: one final state for {seeds}.",
            "The {runs} exact runs ended in {states} different final states for {seeds}, "
            "where exact reduction promises one for each.",
            "",
        ),
        same_exact_bits,
    )


def _beats_serial(subject: Contestant, experiment: str) -> Claim:
    # With one worker, efficiency is the ratio itself.
    gain = "{ratio} times its throughput"
    if subject.world_size > 1:
        gain += f", a {experiment}-scaling efficiency of {{efficiency}} against serial"
    return _claim(
        "speed_against_serial",
        subject,
        "throughput",
        "{who} is faster than serial",
        (
            f"{{who}} is faster than serial: {gain}.",
            f"{{who}} is slower than serial: {gain}.",
            f"{{who}} and serial are not distinguishable: {gain}; the interval holds 1.",
        ),
        faster(subject, Contestant("serial", subject.reduction, 1)),
    )


def _beats_peer(subject: Contestant) -> Claim:
    return _claim(
        f"speed_against_{PEER}",
        subject,
        "throughput",
        f"{{who}} is faster than {PEER}",
        (
            f"{{who}} is faster than {PEER}: {{ratio}} times its throughput.",
            f"{{who}} is slower than {PEER}: {{ratio}} times its throughput.",
            f"{{who}} and {PEER} are not distinguishable: {{ratio}} times its throughput; "
            "the interval holds 1.",
        ),
        faster(subject, Contestant(PEER, "float32", subject.world_size)),
    )


def _near_ceiling(subject: Contestant) -> Claim:
    share = "{share} % of the throughput of the same ranks without synchronisation"
    return _claim(
        "share_of_ceiling",
        subject,
        "throughput",
        f"{{who}} reaches more than {100 * CEILING_SHARE:g} % of the ceiling",
        (
            f"{{who}} reaches more than {{limit}} % of the ceiling: {share}.",
            f"{{who}} reaches less than {{limit}} % of the ceiling: {share}.",
            f"{{who}} reaches a share of the ceiling that is not distinguishable from {{limit}} %: "
            f"{share}.",
        ),
        share_of_ceiling(subject, CEILING_SHARE),
    )


def _more_workers_help(subject: Contestant, experiment: str) -> Claim:
    efficiency = f"{experiment}-scaling efficiency"
    return _claim(
        "scaling",
        subject,
        "efficiency",
        "{who} is faster than at world size 1",
        (
            f"{{who}} is faster than at world size 1, at a {efficiency} of {{efficiency}}.",
            f"{{who}} is slower than at world size 1, at a {efficiency} of {{efficiency}}.",
            f"{{who}} is not distinguishable in speed from world size 1; its {efficiency} "
            "is {efficiency}.",
        ),
        faster(subject, Contestant(subject.strategy, subject.reduction, 1)),
    )


def _same_accuracy(strategy: str, reduction: str) -> Claim:
    return _claim(
        "accuracy",
        Contestant(strategy, reduction, 0),
        "convergence",
        f"{{who}} ends within {ACCURACY_POINTS:g} percentage points of serial's test accuracy",
        (
            "{who} ends within {limit} percentage points of serial's test accuracy in every run "
            "(largest difference {worst}).",
            "{who} ends more than {limit} percentage points from serial's test accuracy in some "
            "run (largest difference {worst}).",
            "",
        ),
        accuracy_within(strategy, reduction, ACCURACY_POINTS),
    )


def _converges_no_slower(subject: Contestant) -> Claim:
    return _claim(
        "convergence",
        subject,
        "target",
        "{who} needs no more epochs than serial to the target accuracy",
        (
            "{who} converges no slower than serial: it reaches the target accuracy after {mine} "
            "epochs, serial after {serial} ({runs} runs, compared seed by seed).",
            "{who} converges slower than serial: it reaches the target accuracy after {mine} "
            "epochs, serial after {serial} (all {runs} runs, compared seed by seed).",
            "{who} and serial are not distinguishable in convergence: {later} of {runs} runs need "
            "more epochs to the target accuracy than serial of the same seed ({mine} against "
            "{serial}).",
        ),
        converges_no_slower(subject),
    )


def _sooner_to_target(subject: Contestant) -> Claim:
    times = "{mine} s of training against {theirs} s, {ratio} times as long"
    return _claim(
        "time_to_target",
        subject,
        "target",
        "{who} reaches the target accuracy sooner than serial",
        (
            f"{{who}} reaches the target accuracy sooner than serial: {times}.",
            f"{{who}} reaches the target accuracy later than serial: {times}.",
            "{who} and serial are not distinguishable in their time to the target accuracy: "
            f"{times}; the interval holds 1.",
        ),
        sooner(subject, Contestant("serial", subject.reduction, 1)),
    )


def _mostly_computing(subject: Contestant) -> Claim:
    share = "{share} %; waiting to receive is {waiting} %"
    if subject.strategy == PEER:
        # DDP hides when it waits: only the sum is known, and only by calibration.
        share = "{share} % (calibrated, not measured)"
    return _claim(
        "communication",
        subject,
        "communication",
        f"{{who}} spends less than {100 * COMMUNICATION_SHARE:g} % of a step in communication",
        (
            f"{{who}} spends less than {{limit}} % of a step in communication: {share}.",
            f"{{who}} spends more than {{limit}} % of a step in communication: {share}.",
            "{who} spends a share in communication that is not distinguishable from {limit} %: "
            f"{share}.",
        ),
        communication_below(subject, COMMUNICATION_SHARE),
    )


def _float32(contestant: Contestant) -> Contestant:
    return Contestant(contestant.strategy, "float32", contestant.world_size)


def _exact_costs(subject: Contestant) -> Claim:
    return _claim(
        "price_of_exactness",
        subject,
        "exactness",
        "{who} is faster than with float32 reduction",
        (
            "{who} is faster than with float32 reduction: {ratio} times that throughput.",
            "{who} is slower than with float32 reduction: {ratio} times that throughput.",
            "{who} is not distinguishable in speed from float32 reduction: {ratio} times that "
            "throughput; the interval holds 1.",
        ),
        faster(subject, _float32(subject)),
    )
