"""Records of the collective benchmark, constructed: times are given, nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from dmlf.benchmark.collective.config import CollectiveConfig
from dmlf.benchmark.collective.load import Collectives, parse_record
from dmlf.benchmark.collective.measure import Cell, Measured, Skipped
from dmlf.benchmark.collective.record import build_record
from tests.benchmark.matrix import STARTED, fixed_environment

SIZES = (1024, 1 << 20)
# Milliseconds of a call of 1 MiB at world size 2, round by round.
TIMES: Mapping[str, Sequence[float]] = {
    "ring-shm": [1.0, 1.1, 0.9, 1.0, 1.05],
    "parameter_server-shm": [4.0, 6.0, 5.0, 3.0, 7.0],
    "gloo": [4.0, 4.1, 3.9, 4.2, 4.0],
    "openmpi": [0.5, 0.6, 0.55, 0.5, 0.5],
    "limit": [0.25, 0.25, 0.25, 0.25, 0.25],
}


def record(
    times: Mapping[str, Sequence[float]] = TIMES,
    skipped: Mapping[str, str] | None = None,
    world_sizes: Sequence[int] = (2, 4),
    cores: int = 2,
) -> dict[str, Any]:
    """A record in which every size takes its share of the time, and 4 ranks take twice as long."""
    names = [name for name in TIMES if name not in ("gloo", "openmpi", "limit")]
    config = CollectiveConfig(
        strategies=tuple(name for name in names if name in times or name in (skipped or {})),
        world_sizes=tuple(world_sizes),
        sizes=SIZES,
        rounds=len(times["limit"]),
    )
    cells = [
        Cell(
            contestant=name,
            world_size=world_size,
            size_bytes=size,
            processes=world_size + ("parameter_server" in name),
            calls=3,
            call_s=tuple(1e-3 * time * size / SIZES[-1] * world_size / 2 for time in values),
        )
        for world_size in world_sizes
        for size in SIZES
        for name, values in times.items()
    ]
    absent = [
        Skipped(name, world_size, reason)
        for name, reason in (skipped or {}).items()
        for world_size in world_sizes
    ]
    measured = Measured(
        config=config,
        cells=tuple(cells),
        skipped=tuple(absent),
        libraries={},
        started_at=STARTED,
        finished_at=STARTED + timedelta(seconds=20),
        total_s=20.0,
        lock_wait_s=0.0,
        load_before=(0.1, 0.2, 0.3),
        load_after=(1.1, 0.2, 0.3),
    )
    with fixed_environment(cores=cores):
        return build_record(measured, ["dmlf", "collective"], None)


def collectives(*arguments: Any, **options: Any) -> Collectives:
    return parse_record(record(*arguments, **options), "collective.json")


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A sound record after one change."""
    made = record()
    change(made)
    return made
