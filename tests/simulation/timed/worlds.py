"""Clusters and workloads for the tests, with numbers that differ wherever a mix-up could hide."""

from __future__ import annotations

from typing import Any

from dmlf.protocol import BucketShape, registry
from dmlf.simulation.timed import (
    Cluster,
    Link,
    Straggling,
    TimedWorld,
    Timing,
    Workload,
    evenly_ready,
)


def cluster(**changes: Any) -> Cluster:
    values: dict[str, Any] = {
        "port": Link(2e-5, 1.25e9),
        "local": Link(1e-6, 1e10),
        "overhead_s": 3e-6,
        "reduction_s_per_byte": 1e-10,
    }
    return Cluster(**(values | changes))


def workload(
    *numels: int, compute_s: float = 0.01, overlap: bool = False, exact: bool = False
) -> Workload:
    shapes = tuple(BucketShape(numel, 8, 6) if exact else BucketShape(numel) for numel in numels)
    ready_s = tuple(evenly_ready(shapes, 0.3 * compute_s, 0.7 * compute_s))
    return Workload(buckets=shapes, ready_s=ready_s, compute_s=compute_s, overlap=overlap)


def simulated(
    name: str,
    where: Cluster,
    what: Workload,
    world_size: int,
    num_servers: int = 1,
    steps: int = 1,
    straggling: Straggling | None = None,
) -> Timing:
    return TimedWorld(
        registry()[name],
        where,
        what,
        world_size,
        num_servers,
        steps,
        straggling or Straggling(),
    ).run()
