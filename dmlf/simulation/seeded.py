"""One simulated run from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from dmlf.errors import SimulationFailure
from dmlf.protocol import Algorithm
from dmlf.simulation.agenda import replayed_choices, seeded_choices
from dmlf.simulation.faults import Fault, Footprint, random_plan
from dmlf.simulation.scenario import Reduction, Scenario
from dmlf.simulation.shrink import describe, shrink
from dmlf.simulation.world import Run, World


def scenario_of(
    algorithm: Algorithm,
    world_size: int,
    steps: int,
    reduction: Reduction,
    seed: int,
    num_servers: int = 1,
) -> Scenario:
    """The scenario of a seed: seeds take turns with bucket shapes, uneven and empty chunks too."""
    size = world_size
    shapes = ((2 * size + 1, 3), (size,), (1, size + 1), (size - 1, 2))
    numels = shapes[seed % len(shapes)]
    return Scenario(algorithm, size, steps, numels, reduction, num_servers=num_servers)


@lru_cache(maxsize=64)
def footprint_of(scenario: Scenario) -> Footprint:
    """What a fault-free run of `scenario` does."""
    return World(scenario, (), replayed_choices(())).run().footprint


def run_seed(scenario: Scenario, seed: int) -> Run:
    """Run `scenario` with the faults and the schedule of `seed`; the same seed, the same trace.

    Raises SimulationFailure with the seed, the shortest fault plan and schedule found that still
    break the same invariant, and their trace.
    """
    try:
        plan = random_plan(scenario, footprint_of(scenario), seed)
    except SimulationFailure as failure:  # without any fault
        shortest = shrink(scenario, (), (), failure)
        raise SimulationFailure(failure.invariant, describe(shortest), seed) from None
    return run_plan(scenario, plan, seed)


def run_plan(scenario: Scenario, plan: Sequence[Fault], seed: int) -> Run:
    """Run `scenario` with the faults of `plan` and the schedule of `seed`, as `run_seed` does."""
    world = World(scenario, plan, seeded_choices(seed))
    try:
        return world.run()
    except SimulationFailure as failure:
        shortest = shrink(scenario, plan, world.choices, failure)
        raise SimulationFailure(failure.invariant, describe(shortest), seed) from None
