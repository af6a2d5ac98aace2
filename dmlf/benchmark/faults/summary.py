"""What a campaign and the measurement of its price come to, in numbers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmlf.benchmark.faults.overhead import BETWEEN, CHECKPOINTS, PLAIN, RESTARTS
from dmlf.benchmark.faults.plans import Request
from dmlf.benchmark.statistics import Estimate, median_estimate


@dataclass(frozen=True, slots=True)
class Kind:
    """What became of the runs whose first fault was of one kind. Times are seconds.

    `noticed`: runs in which somebody saw it; `recovered`: those that went on by themselves after
    it, `resumed`: those that ended with the error they must, and were then resumed. A pause needs
    none of these. `equal`: runs that ended in the undisturbed run's state.
    """

    name: str
    injected: int
    struck: int
    runs: int
    noticed: int
    recovered: int
    resumed: int
    equal: int
    detection_s: tuple[float, ...]
    recovery_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not end as it must, and the command that repeats it."""

    number: int
    what: str
    problem: str
    command: str


def kinds(campaign: Mapping[str, Any]) -> list[Kind]:
    """Every kind that was injected, in alphabetical order."""
    counts = campaign["summary"]["by_kind"]
    return [_kind(name, counts[name], campaign["runs"]) for name in counts]


def _kind(name: str, counts: Mapping[str, int], runs: Sequence[Mapping[str, Any]]) -> Kind:
    own = [run for run in runs if run["faults"][0]["kind"] == name]
    return Kind(
        name=name,
        injected=counts["injected"],
        struck=counts["fired"],
        runs=len(own),
        noticed=sum(bool(run["recoveries"]) or run["ended_with"] is not None for run in own),
        recovered=sum(bool(run["recoveries"]) and run["passed"] for run in own),
        resumed=sum(run["must_end_with"] is not None and run["passed"] for run in own),
        equal=sum(run["final_state_sha256"] == run["expected_sha256"] for run in own),
        detection_s=tuple(run["detection_s"] for run in own if run["detection_s"] is not None),
        recovery_s=tuple(event["recovery_s"] for run in own for event in run["recoveries"]),
    )


def phases(campaign: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """How many faults were injected: by phase of the step, then by kind; `-` is any phase."""
    found: dict[str, Counter[str]] = {}
    for run in campaign["runs"]:
        for fault in run["faults"]:
            found.setdefault(fault["phase"] or "-", Counter())[fault["kind"]] += 1
    return dict(sorted(found.items()))


def failures(campaign: Mapping[str, Any]) -> list[Failure]:
    """Every run that did not end as it must."""
    asked = campaign["request"]
    request = Request(
        asked["runs"], asked["seed"], tuple(asked["algorithms"]), tuple(asked["transports"])
    )
    return [
        Failure(
            run["number"],
            f"{run['strategy']}, {run['reduction']}, world size {run['config']['world_size']}: "
            + " ".join(fault["fault"] for fault in run["faults"]),
            run["problem"] or "failed",
            request.command(run["number"]),
        )
        for run in campaign["runs"]
        if not run["passed"]
    ]


_BESIDE = {RESTARTS: PLAIN, CHECKPOINTS: BETWEEN}


def overhead_ratio(overhead: Mapping[str, Any], variant: str) -> Estimate:
    """How many times as long steps take as those without: the median of the rounds' ratios."""
    pairs = zip(overhead["step_s"][variant], overhead["step_s"][_BESIDE[variant]], strict=True)
    return median_estimate([with_ / without for with_, without in pairs])


def plain_step_s(overhead: Mapping[str, Any]) -> float:
    """The median of the plain runs' seconds per step."""
    return float(statistics.median(overhead["step_s"][PLAIN]))
