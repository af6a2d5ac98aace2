"""Which resource a step waits for: the one that would shorten it most if it were twice as good."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dmlf.simulation.timed import Cluster, Link, Straggling, Workload

StepTime = Callable[[Cluster, Workload, Straggling], float]


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A resource, and the part of the step that a twice as good one would take away."""

    resource: str
    gain: float


def bottleneck(
    step_s: StepTime, cluster: Cluster, workload: Workload, straggling: Straggling
) -> Bottleneck:
    """Improve one resource at a time; the first of those that help most (computation, if none)."""
    now_s = step_s(cluster, workload, straggling)
    best = Bottleneck("compute", 0.0)
    if now_s <= 0:
        return best
    for resource, variant in _variants(cluster, workload, straggling):
        gain = 1 - step_s(*variant) / now_s
        if gain > best.gain + 1e-9:
            best = Bottleneck(resource, gain)
    return best


def _variants(
    cluster: Cluster, workload: Workload, straggling: Straggling
) -> Iterator[tuple[str, tuple[Cluster, Workload, Straggling]]]:
    """Every resource twice as good, all others as they are."""
    # What the slowest rank takes longer stays as long as it was, in seconds.
    kept = replace(
        straggling,
        sigma=min(5.0, math.log(2 * math.exp(straggling.sigma) - 1)),
        slow_factor=1 + 2 * (straggling.slow_factor - 1),
    )
    yield "compute", (cluster, scaled(workload, 0.5), kept)
    if not straggling.is_none:
        calmer = replace(
            straggling,
            sigma=straggling.sigma / 2,
            slow_factor=1 + (straggling.slow_factor - 1) / 2,
        )
        yield "straggling", (cluster, workload, calmer)
    port, local = cluster.port, cluster.local
    servers = cluster.server_bandwidth or port.bandwidth_bytes_per_s
    changes: dict[str, Cluster] = {
        "latency": replace(
            cluster,
            port=replace(port, latency_s=port.latency_s / 2),
            local=replace(local, latency_s=local.latency_s / 2),
        ),
        "message overhead": replace(cluster, overhead_s=cluster.overhead_s / 2),
        "port bandwidth": replace(
            cluster,
            port=Link(port.latency_s, 2 * port.bandwidth_bytes_per_s),
            server_bandwidth=servers,
        ),
        "server port": replace(cluster, server_bandwidth=2 * servers),
        "link within hosts": replace(
            cluster, local=Link(local.latency_s, 2 * local.bandwidth_bytes_per_s)
        ),
        "reduction": replace(cluster, reduction_s_per_byte=cluster.reduction_s_per_byte / 2),
    }
    for resource, changed in changes.items():
        yield resource, (changed, workload, straggling)


def scaled(workload: Workload, factor: float) -> Workload:
    """The same buckets with computation that takes `factor` times as long."""
    return replace(
        workload,
        compute_s=workload.compute_s * factor,
        ready_s=tuple(ready_s * factor for ready_s in workload.ready_s),
    )
