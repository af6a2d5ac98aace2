"""What a campaign and the measurement of its price show, as claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmlf.benchmark.claims import Outcome
from dmlf.benchmark.faults.load import Faults
from dmlf.benchmark.faults.overhead import CHECKPOINTS, RESTARTS
from dmlf.benchmark.faults.summary import overhead_ratio
from dmlf.benchmark.statistics import (
    MIN_REPEATS_FOR_CLAIM,
    Estimate,
    significant,
)

TARGETS = {RESTARTS: 1.03, CHECKPOINTS: 1.05}
"""How many times as long steps may take: with restarts allowed, and with checkpoints."""
_CAMPAIGN = "results/faults.json"
_OVERHEAD = "results/overhead.json"


@dataclass(frozen=True, slots=True)
class Statement:
    """A claim of the report: by name, what was asked, its outcome, a sentence, and its numbers."""

    name: str
    tested: str
    outcome: Outcome
    text: str
    numbers: Mapping[str, str]
    rebuild: str


def statements(faults: Faults) -> list[Statement]:
    """Every claim on faults, also those that nothing can be said about."""
    return [_survived(faults), *(_price(faults, variant) for variant in TARGETS)]


def _survived(faults: Faults) -> Statement:
    name = "faults/survived"
    tested = "every run with injected faults ends in the bits of the undisturbed run"
    campaign = faults.campaign
    if campaign is None:
        text = f"No statement on injected faults: {faults.campaign_problem}."
        return Statement(name, tested, Outcome.NO_DATA, text, {}, f"snakemake {_CAMPAIGN}")
    summary = campaign["summary"]
    injected = sum(counts["injected"] for counts in summary["by_kind"].values())
    numbers = {
        "runs": str(summary["runs"]),
        "passed": str(summary["passed"]),
        "faults": str(injected),
        "kinds": str(len(summary["by_kind"])),
        "recoveries": str(summary["recoveries"]),
    }
    for key in ("detection_median_s", "detection_max_s", "recovery_median_s", "recovery_max_s"):
        if summary[key] is not None:
            numbers[key] = significant(summary[key], 2)
    if summary["passed"] == summary["runs"]:
        outcome = Outcome.HOLDS
        text = (
            f"All {summary['runs']} runs with {injected} injected faults of "
            f"{len(summary['by_kind'])} kinds ended in the bits of the undisturbed run"
        )
    else:
        outcome = Outcome.DOES_NOT_HOLD
        text = (
            f"{summary['runs'] - summary['passed']} of {summary['runs']} runs with injected faults "
            "did not end as they must"
        )
    if summary["recoveries"]:
        text += (
            f"; {summary['recoveries']} recoveries took {numbers['recovery_median_s']} s in the "
            f"median and {numbers['recovery_max_s']} s at most"
        )
    return Statement(name, tested, outcome, f"{text}.", numbers, f"snakemake {_CAMPAIGN}")


def _price(faults: Faults, variant: str) -> Statement:
    name, rebuild = f"overhead/{variant}", f"snakemake {_OVERHEAD}"
    what = {
        RESTARTS: "Steps of a run that may recover (`--max-restarts`)",
        CHECKPOINTS: "Steps with a checkpoint",
    }[variant]
    without = {RESTARTS: "plain ones", CHECKPOINTS: "those between, without one"}[variant]
    tested = f"steps with {variant} take at most {TARGETS[variant]:g} times as long as {without}"
    overhead = faults.overhead
    if overhead is None:
        text = f"No statement on the price of {variant}: {faults.overhead_problem}."
        return Statement(name, tested, Outcome.NO_DATA, text, {}, rebuild)
    if variant == CHECKPOINTS:
        what += f" every {overhead['checkpoint_every']}"
    ratio, target = overhead_ratio(overhead, variant), TARGETS[variant]
    numbers = {"ratio": ratio.text(), "target": f"{target:g}", "rounds": str(ratio.runs)}
    took = f"{what} take {ratio.text()} times as long as {without}"
    outcome = within(ratio, target)
    text = {
        Outcome.HOLDS: f"{took}: within the target of {target:g}.",
        Outcome.DOES_NOT_HOLD: f"{took}: more than the target of {target:g}.",
        Outcome.NOT_DISTINGUISHABLE: (
            f"{took}: too uncertain to say on which side of the target of {target:g}."
        ),
        Outcome.NO_DATA: (
            f"No statement on the price of {variant}: a claim needs {MIN_REPEATS_FOR_CLAIM} "
            f"rounds, and there are {ratio.runs}."
        ),
    }[outcome]
    return Statement(name, tested, outcome, text, numbers, rebuild)


def within(ratio: Estimate, target: float) -> Outcome:
    """Does the whole interval lie at or below the target, or above it?"""
    if ratio.runs < MIN_REPEATS_FOR_CLAIM or ratio.low is None or ratio.high is None:
        return Outcome.NO_DATA
    if ratio.high <= target:
        return Outcome.HOLDS
    return Outcome.DOES_NOT_HOLD if ratio.low > target else Outcome.NOT_DISTINGUISHABLE
