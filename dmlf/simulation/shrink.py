"""The shortest fault plan and schedule that still break the same invariant.

Delta debugging (Zeller & Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE
TSE 28(2), 2002), first on the faults, then on the choices of the schedule: a choice is removed
by making it the canonical one, the event that was posted first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dmlf.errors import SimulationFailure
from dmlf.simulation.agenda import replayed_choices
from dmlf.simulation.faults import Fault
from dmlf.simulation.scenario import Scenario
from dmlf.simulation.world import TraceEvent, World

_MAX_RUNS = 500
_SHOWN_EVENTS = 40
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A run that breaks an invariant: replayed by its plan and choices.

    choices: what is chosen wherever more than one event is due (0 beyond their end).
    """

    scenario: Scenario
    plan: tuple[Fault, ...]
    choices: tuple[int, ...]
    failure: SimulationFailure
    trace: tuple[TraceEvent, ...]


def replay(scenario: Scenario, plan: Sequence[Fault], choices: Sequence[int]) -> Counterexample:
    """Run a plan and a schedule that break an invariant. Raises ValueError if none breaks."""
    world = World(scenario, plan, replayed_choices(choices))
    try:
        world.run()
    except SimulationFailure as failure:
        trace = tuple(world.trace)
        return Counterexample(scenario, tuple(plan), tuple(choices), failure, trace)
    raise ValueError("this plan and schedule break no invariant")


def shrink(
    scenario: Scenario,
    plan: Sequence[Fault],
    choices: Sequence[int],
    failure: SimulationFailure,
) -> Counterexample:
    """The shortest counterexample found within 500 runs that breaks what `failure` names."""
    runs = 0

    def breaks(faults: Sequence[Fault], schedule: Sequence[int]) -> bool:
        nonlocal runs
        runs += 1
        if runs > _MAX_RUNS:
            return False
        try:
            return replay(scenario, faults, schedule).failure.invariant == failure.invariant
        except ValueError:
            return False

    faults = tuple(plan)
    schedule = tuple(choices)
    if breaks(faults, ()):
        schedule = ()
    faults = _minimal(faults, lambda kept: breaks(kept, schedule))
    deviations = [(place, choice) for place, choice in enumerate(schedule) if choice]
    kept = _minimal(deviations, lambda some: breaks(faults, _choices(some)))
    return replay(scenario, faults, _choices(kept))


def describe(example: Counterexample) -> str:
    """The counterexample for a reader: what broke, the faults, the schedule, the last events."""
    scenario = example.scenario
    lines = [
        example.failure.detail,
        f"  algorithm {scenario.algorithm.name}, {scenario.group}, "
        f"{scenario.steps} steps, buckets {list(scenario.bucket_numels)}, {scenario.reduction}",
        "  faults: " + ("; ".join(str(fault) for fault in example.plan) or "none"),
        f"  choices: {list(example.choices)} (then always the event posted first)",
        f"  the last of {len(example.trace)} events:",
    ]
    lines += [f"    {event}" for event in example.trace[-_SHOWN_EVENTS:]]
    return "\n".join(lines)


def _choices(deviations: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The schedule that is canonical but for `deviations`."""
    choices = [0] * (deviations[-1][0] + 1 if deviations else 0)
    for place, choice in deviations:
        choices[place] = choice
    return tuple(choices)


def _minimal(items: Sequence[Item], breaks: Callable[[Sequence[Item]], bool]) -> tuple[Item, ...]:
    """A subsequence of `items` that breaks, of which no single item can be left out."""
    kept = list(items)
    size = len(kept)
    while size:
        start = 0
        while start < len(kept):
            without = kept[:start] + kept[start + size :]
            if breaks(without):
                kept = without
            else:
                start += size
        size = size // 2
    return tuple(kept)
