"""Did a run compute what it should have? The verdict that every speed depends on.

| run                     | must equal                                                            |
|-------------------------|-----------------------------------------------------------------------|
| serial                  | the other runs of serial (or of world size 1) with the same seed      |
| protocol, float32       | the serial replay that adds in the algorithm's published order        |
| protocol, exact         | the serial exact run of the same seed, at any world size; without one |
|                         | no other exact run may differ                                         |
| ddp; native, float32    | serial float32's first losses, within 1e-3: no order is published.    |
|                         | Without serial of that batch: a protocol's that equals its replay     |
| native, exact           | as a protocol                                                         |
| unsynchronized          | nothing: no training result. Its ranks must differ, or they did not   |
|                         | train apart                                                           |
| float32 whose number of | nothing: no order of additions is published for it                    |
| workers changed         |                                                                       |

Besides, replicas must be identical, and the protocols' measured traffic must be the traffic that
theory gives. `absent` means that there was nothing to compare with: not wrong, and not shown.
`ceiling` is the verdict on unsynchronized runs: a speed to hold others against, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmlf.config import UNSYNCHRONIZED, RunConfig

PASSED, FAILED, ABSENT, CEILING = "passed", "failed", "absent", "ceiling"
LOSS_STEPS = 10
LOSS_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a completed run left for its check.

    `cohort` names workload, sources and machine: only runs that share it are compared.
    `reference_sha256` is the replay's final state, None with the reason in `reference_problem`.
    `step_loss` holds at least the first LOSS_STEPS mean losses from `first_step` on, or all there
    are. `resized`: workers came or went.
    """

    config: RunConfig
    cohort: str
    final_state_sha256: str
    replicas_identical: bool
    traffic_matches_theory: bool | None
    step_loss: Sequence[float]
    reference_sha256: str | None
    reference_problem: str
    first_step: int = 0
    resized: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`check` is passed, failed, absent or ceiling; `detail` says what was compared with what."""

    check: str
    detail: str


def check_runs(runs: Sequence[Evidence]) -> list[Verdict]:
    """Judge every run, with the others as its company; same order as `runs`."""
    return [_check(run, _company(run, runs)) for run in runs]


def _company(run: Evidence, runs: Sequence[Evidence]) -> list[Evidence]:
    """The other runs of the same workload, sources, machine and seed."""
    return [
        other
        for other in runs
        if other is not run and other.cohort == run.cohort and other.config.seed == run.config.seed
    ]


def _check(run: Evidence, company: Sequence[Evidence]) -> Verdict:
    config = run.config
    if not config.synchronous:
        return _check_apart(run)
    if not run.replicas_identical:
        return Verdict(FAILED, "the ranks ended with different parameters")
    if config.algorithm == "ddp" or (config.algorithm, config.reduction) == ("native", "float32"):
        return _check_losses(run, company)
    if config.algorithm not in ("serial", "native"):
        if run.traffic_matches_theory is False:
            return Verdict(FAILED, "bytes or messages sent are not those of theory")
        if run.traffic_matches_theory is None:
            return Verdict(ABSENT, "traffic was not counted or has no theory to compare with")
    if run.resized and config.reduction == "float32":
        return Verdict(ABSENT, "workers came or went, so its order of additions has no replay")
    if run.reference_sha256 not in (None, run.final_state_sha256):
        return Verdict(FAILED, "the final state differs from the serial replay's")
    if config.algorithm == "serial":
        return _check_serial(run, company)
    if config.reduction == "exact":
        return _check_exact(run, company)
    return _check_replay(run, company)


def _check_apart(run: Evidence) -> Verdict:
    if run.replicas_identical and run.config.world_size > 1:
        return Verdict(FAILED, "the ranks ended with the same parameters: they did not train apart")
    if run.traffic_matches_theory is not True:
        return Verdict(FAILED, "ranks that train apart exchanged messages")
    return Verdict(CEILING, "no training result: its ranks exchange nothing and end apart")


def _check_serial(run: Evidence, company: Sequence[Evidence]) -> Verdict:
    repeats = [other for other in company if _is_serial(other, run.config.reduction)]
    if any(other.final_state_sha256 != run.final_state_sha256 for other in repeats):
        return Verdict(FAILED, "repeats of serial with the same seed ended in different states")
    if repeats:
        return Verdict(PASSED, f"same final state as {_others(len(repeats))} of serial")
    if run.reference_sha256 is not None:
        return Verdict(PASSED, "same final state as its replay")
    # One serial run alone proves nothing, but a protocol that must give its bits may vouch for it.
    vouching = [
        other
        for other in company
        if other.config.reduction == run.config.reduction
        and other.config.algorithm not in ("serial", "ddp", UNSYNCHRONIZED)
        and (other.config.reduction == "exact" or other.config.world_size == 1)
        and not (other.resized and other.config.reduction == "float32")
        and other.final_state_sha256 == run.final_state_sha256
    ]
    if vouching:
        other = vouching[0].config
        return Verdict(
            PASSED, f"same final state as {other.strategy} at world size {other.world_size}"
        )
    return Verdict(ABSENT, "no second run of serial with this seed to compare with")


def _check_exact(run: Evidence, company: Sequence[Evidence]) -> Verdict:
    exact = [other for other in company if other.config.reduction == "exact"]
    states = {other.final_state_sha256 for other in exact if _is_serial(other, "exact")}
    if not states:
        if any(other.final_state_sha256 != run.final_state_sha256 for other in exact):
            return Verdict(FAILED, "exact runs of this seed ended in different states")
        return Verdict(ABSENT, "no serial exact run with this seed to compare with")
    if len(states) > 1:
        return Verdict(ABSENT, "the serial exact runs of this seed disagree among themselves")
    if run.final_state_sha256 not in states:
        return Verdict(FAILED, "the final state differs from the serial exact run's")
    return Verdict(PASSED, "same final state as the serial exact run")


def _check_replay(run: Evidence, company: Sequence[Evidence]) -> Verdict:
    if run.reference_sha256 is None:
        return Verdict(ABSENT, run.reference_problem)
    states = {o.final_state_sha256 for o in company if _is_serial(o, "float32")}
    if run.config.world_size == 1 and len(states) == 1 and run.final_state_sha256 not in states:
        return Verdict(FAILED, "at world size 1 the final state differs from the serial run's")
    detail = "same final state as the serial replay in the published order"
    if run.config.world_size == 1 and run.final_state_sha256 in states:
        detail += ", and as serial itself"
    return Verdict(PASSED, detail)


def _check_losses(run: Evidence, company: Sequence[Evidence]) -> Verdict:
    if run.first_step:
        return Verdict(ABSENT, "it went on from a checkpoint, so its first losses are not here")
    serial = [o for o in company if _is_serial(o, "float32") and not o.first_step]
    if len({other.final_state_sha256 for other in serial}) > 1:
        return Verdict(ABSENT, "the serial float32 runs of this seed disagree among themselves")
    whose = "the serial run"
    if not serial:
        # As good as serial: it ended where a serial process ended that added in its order.
        serial = [other for other in company if _equals_replay(other)]
        if not serial:
            return Verdict(ABSENT, "no serial float32 run with this seed to compare with")
        whose = f"a run of {serial[0].config.strategy} that equals its serial replay"
    mine, theirs = run.step_loss[:LOSS_STEPS], serial[0].step_loss[:LOSS_STEPS]
    if len(mine) != len(theirs) or not mine:
        return Verdict(ABSENT, f"has not the same steps as {whose}")
    for step, (loss, expected) in enumerate(zip(mine, theirs, strict=True)):
        if abs(loss - expected) > LOSS_TOLERANCE * abs(expected):
            detail = f"step {step}: loss {loss:.6g}, but {expected:.6g} in {whose}"
            return Verdict(FAILED, f"{detail} (tolerance {LOSS_TOLERANCE:g} relative)")
    return Verdict(
        PASSED,
        f"first {len(mine)} losses within {LOSS_TOLERANCE:g} of those of {whose}; "
        "replicas identical",
    )


def _equals_replay(run: Evidence) -> bool:
    return run.config.reduction == "float32" and run.reference_sha256 == run.final_state_sha256


def _others(number: int) -> str:
    return f"{number} other run{'s' * (number != 1)}"


def _is_serial(run: Evidence, reduction: str) -> bool:
    return run.config.algorithm == "serial" and run.config.reduction == reduction
