"""What `dmlf simulate` does: seeded fault schedules, and exhaustive exploration."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast, get_args

from dmlf.config import MAX_SERVERS
from dmlf.errors import ConfigError
from dmlf.protocol import Algorithm, registry
from dmlf.simulation.agenda import replayed_choices
from dmlf.simulation.explore import Exploration, Explorer
from dmlf.simulation.faults import single_faults
from dmlf.simulation.scenario import Reduction, Scenario
from dmlf.simulation.seeded import footprint_of, run_seed, scenario_of
from dmlf.simulation.world import Run, World

Progress = Callable[[int], None]
"""Told now and then how many schedules have run, or how many states were visited."""

_PROGRESS_EVERY = 100


@dataclass(frozen=True, slots=True)
class SimulationSummary:
    """Seeded schedules that all passed.

    group: world size and servers. fired: faults that fired, by kind. outcomes: ranks by how they
    ended. runs_completed: runs in which every rank completed. events: of all runs together.
    elapsed_s: wall time.
    """

    algorithm: str
    group: str
    steps: int
    reduction: str
    first_seed: int
    schedules: int
    runs_completed: int
    events: int
    fired: Mapping[str, int]
    outcomes: Mapping[str, int]
    elapsed_s: float

    def __str__(self) -> str:
        per_second = self.schedules / self.elapsed_s if self.elapsed_s else 0.0
        return "\n".join(
            (
                f"{self.algorithm}, {self.group}, {self.steps} steps, "
                f"{self.reduction}: {self.schedules} schedules passed "
                f"(seeds {self.first_seed} to {self.first_seed + self.schedules - 1})",
                f"  {self.events} events in {self.elapsed_s:.1f} s, "
                f"{per_second:.0f} schedules a second",
                f"  all ranks completed in {self.runs_completed} runs",
                f"  faults fired: {_listed(self.fired)}",
                f"  ranks ended: {_listed(self.outcomes)}",
            )
        )


@dataclass(frozen=True, slots=True)
class ExplorationSummary:
    """Everything that can happen to a small group, and it all passed.

    group: world size and servers. fault_free: all interleavings. one_fault: all interleavings with
    at most one crash, drop, duplicate or corruption anywhere. single_faults: by kind, the faults
    of every kind at every place, each run under the canonical schedule. elapsed_s: wall time.
    """

    algorithm: str
    group: str
    steps: int
    bucket_numels: tuple[int, ...]
    reduction: str
    fault_free: Exploration
    one_fault: Exploration
    single_faults: Mapping[str, int]
    elapsed_s: float

    def __str__(self) -> str:
        free, fault = self.fault_free, self.one_fault
        return "\n".join(
            (
                f"{self.algorithm}, {self.group}, {self.steps} steps, buckets "
                f"{list(self.bucket_numels)}, {self.reduction}: explored in {self.elapsed_s:.1f} s",
                f"  all interleavings: {free.states} states, {free.transitions} transitions, "
                f"{free.finals} final state(s)",
                f"  with one fault anywhere: {fault.states} states, {fault.transitions} "
                f"transitions, {fault.finals} final states, {len(fault.outcomes)} outcomes",
                f"  single faults under one schedule: {_listed(self.single_faults)}",
            )
        )


def simulate(
    algorithm: str,
    world_size: int,
    steps: int,
    seeds: int,
    first_seed: int = 0,
    reduction: str = "float32",
    progress: Progress | None = None,
    *,
    num_servers: int = 1,
) -> SimulationSummary:
    """Run `seeds` seeded fault schedules of a registered algorithm, from `first_seed` on.

    Raises SimulationFailure at the first seed that breaks an invariant, with the shortest fault
    plan and schedule found; ConfigError for a value that is not allowed.
    """
    checked, found = _checked(algorithm, world_size, steps, reduction, num_servers)
    if seeds < 1:
        raise ConfigError("seeds", seeds, "an integer of 1 or more")
    return simulate_algorithm(
        checked, world_size, steps, seeds, first_seed, found, progress, num_servers=num_servers
    )


def simulate_algorithm(
    algorithm: Algorithm,
    world_size: int,
    steps: int,
    seeds: int,
    first_seed: int,
    reduction: Reduction,
    progress: Progress | None = None,
    *,
    num_servers: int = 1,
) -> SimulationSummary:
    """`simulate` for an algorithm that need not be registered."""
    start_s = time.perf_counter()
    fired: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    completed = events = 0
    for done, seed in enumerate(range(first_seed, first_seed + seeds), start=1):
        scenario = scenario_of(algorithm, world_size, steps, reduction, seed, num_servers)
        run = run_seed(scenario, seed)
        fired.update({str(kind): count for kind, count in run.fired.items()})
        outcomes.update(run.outcomes)
        completed += set(run.outcomes) == {"completed"}
        events += len(run.trace)
        if progress is not None and (done % _PROGRESS_EVERY == 0 or done == seeds):
            progress(done)
    return SimulationSummary(
        algorithm.name,
        scenario.group,
        steps,
        reduction,
        first_seed,
        seeds,
        completed,
        events,
        dict(sorted(fired.items())),
        dict(sorted(outcomes.items())),
        time.perf_counter() - start_s,
    )


def explore(
    algorithm: str,
    world_size: int,
    steps: int,
    bucket_numels: tuple[int, ...],
    reduction: str = "float32",
    progress: Progress | None = None,
    *,
    num_servers: int = 1,
) -> ExplorationSummary:
    """Explore everything that can happen to a small group (2 or 3 workers, 1 or 2 steps).

    Raises SimulationFailure, with a shortest schedule, when an invariant breaks; ConfigError for
    a value that is not allowed.
    """
    checked, found = _checked(algorithm, world_size, steps, reduction, num_servers)
    if not bucket_numels or min(bucket_numels) < 0:
        raise ConfigError("bucket_numels", bucket_numels, "at least one size, none negative")
    return explore_algorithm(
        checked, world_size, steps, bucket_numels, found, progress, num_servers=num_servers
    )


def explore_algorithm(
    algorithm: Algorithm,
    world_size: int,
    steps: int,
    bucket_numels: tuple[int, ...],
    reduction: Reduction,
    progress: Progress | None = None,
    *,
    num_servers: int = 1,
) -> ExplorationSummary:
    """`explore` for an algorithm that need not be registered."""
    start_s = time.perf_counter()
    scenario = Scenario(
        algorithm, world_size, steps, bucket_numels, reduction, num_servers=num_servers
    )
    fault_free = Explorer(scenario).run(progress)
    one_fault = Explorer(scenario, max_faults=1).run(progress)
    singles = run_single_faults(scenario)
    elapsed_s = time.perf_counter() - start_s
    return ExplorationSummary(
        algorithm.name,
        scenario.group,
        steps,
        bucket_numels,
        reduction,
        fault_free,
        one_fault,
        singles,
        elapsed_s,
    )


def run_single_faults(
    scenario: Scenario, observe: Callable[[Run], None] | None = None
) -> dict[str, int]:
    """Run every single fault under the canonical schedule; how many there are of each kind."""
    counts: Counter[str] = Counter()
    for fault in single_faults(scenario, footprint_of(scenario)):
        run = World(scenario, (fault,), replayed_choices(())).run()
        counts[str(fault.kind)] += 1
        if observe is not None:
            observe(run)
    return dict(sorted(counts.items()))


def _checked(
    algorithm: str, world_size: int, steps: int, reduction: str, num_servers: int
) -> tuple[Algorithm, Reduction]:
    known = registry()
    if algorithm not in known:
        raise ConfigError("algorithm", algorithm, f"one of {', '.join(known)}")
    if reduction not in get_args(Reduction):
        raise ConfigError("reduction", reduction, f"one of {', '.join(get_args(Reduction))}")
    for key, value in (("world_size", world_size), ("steps", steps)):
        if value < 1:
            raise ConfigError(key, value, "an integer of 1 or more")
    if not 1 <= num_servers <= MAX_SERVERS:
        raise ConfigError("num_servers", num_servers, f"an integer from 1 to {MAX_SERVERS}")
    if num_servers > 1 and not known[algorithm].has_servers:
        allowed = f"1 with algorithm {algorithm!r}, which has no servers"
        raise ConfigError("num_servers", num_servers, allowed)
    return known[algorithm], cast(Reduction, reduction)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
