"""The measurement: in every round, at every size, contestants take turns in a new order."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from dmlf.benchmark.collective import openmpi, ranks
from dmlf.benchmark.collective.config import LIMIT, OPENMPI, CollectiveConfig
from dmlf.errors import ConfigError
from dmlf.runtime.measuring_lock import measuring_lock
from dmlf.training.progress import progress

# A call that takes longer than this many turns is not made a second time before it is measured.
_WARM_ENOUGH = 5
_MAX_CALLS = 2000

Measure = Callable[[str, int, int], float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One contestant at one size and world size: the seconds of one call, round by round.

    processes: those that compute at once, a server included. calls: made in each round.
    """

    contestant: str
    world_size: int
    size_bytes: int
    processes: int
    calls: int
    call_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A contestant that took no part, and why."""

    contestant: str
    world_size: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run of the benchmark found. Loads are the machine's averages over 1, 5, 15 minutes."""

    config: CollectiveConfig
    cells: tuple[Cell, ...]
    skipped: tuple[Skipped, ...]
    libraries: dict[str, str]
    started_at: datetime
    finished_at: datetime
    total_s: float
    lock_wait_s: float
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]


def measure(config: CollectiveConfig, *, exclusive: bool = False) -> Measured:
    """Measure everything that `config` asks for.

    exclusive: hold the host-wide measuring lock. Raises WrongSum if any result is wrong,
    ConfigError if no contestant can take part, and what ended a rank otherwise.
    """
    started_at, start = datetime.now(UTC), time.monotonic()
    cells: list[Cell] = []
    skipped: list[Skipped] = []
    libraries: dict[str, str] = {}
    with measuring_lock() if exclusive else nullcontext(0.0) as lock_wait_s:
        load_before = os.getloadavg()
        for world_size in config.world_sizes:
            with _contestants(config, world_size, libraries) as (processes, call, reasons):
                skipped += [Skipped(name, world_size, why) for name, why in reasons.items()]
                cells += _measure_all_sizes(config, world_size, processes, call)
        load_after = os.getloadavg()
    return Measured(
        config=config,
        cells=tuple(cells),
        skipped=tuple(skipped),
        libraries=libraries,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        total_s=time.monotonic() - start,
        lock_wait_s=lock_wait_s,
        load_before=load_before,
        load_after=load_after,
    )


@contextlib.contextmanager
def _contestants(
    config: CollectiveConfig, world_size: int, libraries: dict[str, str]
) -> Iterator[tuple[dict[str, int], Measure, dict[str, str]]]:
    """Start everything of one world size: processes by contestant, the call, who is skipped."""
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        mpi = None
        if OPENMPI in config.peers:
            try:
                mpi = stack.enter_context(openmpi.started(config, world_size))
            except openmpi.OpenMpiUnavailable as error:
                skipped[OPENMPI] = str(error)
        group = stack.enter_context(ranks.started(config, world_size, skipped))
        processes = dict(group.processes)
        if mpi is not None:
            processes[OPENMPI] = world_size
            libraries[OPENMPI] = mpi.library
        if set(processes) <= {LIMIT}:
            reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
            raise ConfigError(
                "strategies", list(config.strategies), f"one that can run ({reasons})"
            )

        def call(contestant: str, numel: int, calls: int) -> float:
            team = mpi if contestant == OPENMPI and mpi is not None else group
            return team.measure(contestant, numel, calls)

        yield processes, call, skipped


def _measure_all_sizes(
    config: CollectiveConfig, world_size: int, processes: dict[str, int], call: Measure
) -> list[Cell]:
    """All rounds of one world size; every contestant is warm, and knows its calls of a turn.

    A round visits every size, so that what disturbs the machine for a second spoils one round of
    some sizes, which a median bears, and not all rounds of one.
    """
    points = [(size, name) for size in config.sizes for name in processes]
    calls = {
        (size, name): _calls_per_turn(config.round_s, name, size // 4, call)
        for size, name in points
    }
    samples: dict[tuple[int, str], list[float]] = {point: [] for point in points}
    for round_ in progress(range(config.rounds), 0):
        for size in config.sizes:
            order = sorted(processes)
            random.Random(f"{config.seed} {world_size} {size} {round_}").shuffle(order)
            for name in order:
                point = (size, name)
                samples[point].append(call(name, size // 4, calls[point]) / calls[point])
    return [
        Cell(name, world_size, size, processes[name], calls[size, name], tuple(samples[size, name]))
        for size, name in points
    ]


def _calls_per_turn(round_s: float, name: str, numel: int, call: Measure) -> int:
    """Warm a contestant up; return how many of its calls last about `round_s`."""
    call_s = call(name, numel, 1)
    if call_s < _WARM_ENOUGH * round_s:
        call_s = call(name, numel, 3) / 3
    return min(_MAX_CALLS, max(1, round(round_s / call_s)))
