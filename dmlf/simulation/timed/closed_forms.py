"""Closed forms of a step's time under the link model: what the timed simulator finds, unsimulated.

All are for equal computation on all ranks; straggling enters as the mean of the slowest rank's
computation, which is no more than an estimate.

Exact: the ring; the tree at powers of two (elsewhere an upper bound). The parameter server with one
rank per host, of any number of servers and buckets of any size, is within 2 %: arrivals between
those of the first and the last worker are taken as evenly spaced. Several ranks per host make its
form an estimate, as the order in which they take turns at their port is not followed: within 5 %
for one server from 8 hosts on, within 18 % for up to eight. `tests/simulation/timed` holds all
forms against the simulator.

Sources: Patarasuk & Yuan, JPDC 69(2), 2009 (ring: 2 (W - 1) rounds of n / W, the lower bound in
bytes); Thakur, Rabenseifner & Gropp, IJHPCA 19(1), 2005, and Chan et al., "Collective
communication: theory, practice, and experience", CCPE 19(13), 2007 (alpha, beta and gamma terms of
ring and tree); Li et al., OSDI 2014 (the server's port carries W times the model each way);
Hensgen, Finkel & Manber, 1988 (the commit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dmlf.protocol import BucketShape
from dmlf.simulation.timed.links import Cluster
from dmlf.simulation.timed.server_form import parameter_server_step_s
from dmlf.simulation.timed.workload import Straggling, Workload

StepForm = Callable[[Cluster, Workload, int, int], float]
"""(cluster, workload, world_size, num_servers) -> seconds of a step."""


def ring_s(cluster: Cluster, bucket: BucketShape, world_size: int) -> float:
    """Seconds of one ring all-reduce; with one rank per host, and n bytes,

    2 (W - 1) (2 o + alpha + n / (W beta)) + (W - 1) gamma n / W.

    With several ranks per host it is the longest of four paths: around the ring in both phases, or
    behind one port, which the chunks of all rounds pass, in one phase or both.
    """
    if world_size == 1:
        return 0.0
    rounds = world_size - 1
    numel = -(-bucket.numel // world_size)
    sizes = numel * bucket.partial_itemsize, numel * 4
    works = sizes[0] * cluster.reduction_s_per_byte, 0.0
    has_port = cluster.num_hosts(world_size) > 1
    between = cluster.port if has_port else cluster.local
    crossings = cluster.num_hosts(world_size) if has_port else 0
    hops, local_hops, stays = [], [], []
    for size, work in zip(sizes, works, strict=True):
        cpu_s = 2 * cluster.overhead_s + work
        hops.append(cpu_s + between.latency_s + size * between.s_per_byte)
        local_hops.append(cpu_s + cluster.local.latency_s + size * cluster.local.s_per_byte)
        stays.append(max(size * between.s_per_byte, cpu_s))

    def lap_s(phase: int, leaves_out_a_port: bool) -> float:
        """W - 1 hops that follow each other: one edge of the ring is left out."""
        crossed = min(rounds, crossings - (crossings > 0 and leaves_out_a_port))
        return crossed * hops[phase] + (rounds - crossed) * local_hops[phase]

    def behind_s(phase: int) -> float:
        """The chunks of all rounds pass one port; the last one arrives."""
        return (rounds - 1) * stays[phase] + hops[phase]

    # The second lap begins where the first ends, so they leave neighbouring edges out: both are
    # local if a host has three ranks, and one of them with two.
    spare = min(world_size, cluster.ranks_per_host) - 1
    return max(
        lap_s(0, spare < 1) + lap_s(1, spare < 2),
        lap_s(0, True) + behind_s(1),
        behind_s(0) + lap_s(1, True),
        rounds * stays[0] + behind_s(1),
    )


def tree_s(cluster: Cluster, bucket: BucketShape, world_size: int) -> float:
    """Seconds of one binomial tree: ceil(log2 W) (2 (2 o + alpha + n / beta) + gamma n)."""
    partial, reduced = bucket.numel * bucket.partial_itemsize, bucket.numel * 4
    total_s, distance = 0.0, 1
    while distance < world_size:
        link = cluster.local if distance < cluster.ranks_per_host else cluster.port
        total_s += 2 * (2 * cluster.overhead_s + link.latency_s)
        total_s += (partial + reduced) * link.s_per_byte + partial * cluster.reduction_s_per_byte
        distance *= 2
    return total_s


def agreement_s(cluster: Cluster, num_bytes: int, world_size: int) -> float:
    """Seconds of one dissemination: ceil(log2 W) (2 o + alpha + n / beta) with a rank per host.

    Otherwise followed for each place in a host: which of the hops of its longest path cross hosts.
    """
    places = min(cluster.ranks_per_host, world_size)
    has_port = cluster.num_hosts(world_size) > 1
    ends_s, distance = [0.0] * places, 1
    while distance < world_size:
        local_s = cluster.local.latency_s + num_bytes * cluster.local.s_per_byte
        port_s = cluster.port.latency_s
        port_s += min(distance, places) * num_bytes * cluster.port.s_per_byte
        ends_s = [
            max(
                end_s,
                ends_s[(place - distance) % places]
                + (port_s if has_port and place < distance else local_s),
            )
            + 2 * cluster.overhead_s
            for place, end_s in enumerate(ends_s)
        ]
        distance *= 2
    return max(ends_s)


def _all_reduce_step(all_reduce_s: Callable[[Cluster, BucketShape, int], float]) -> StepForm:
    """The step around an all-reduce: buckets one after the other, as they are ready; the commit."""

    def step_s(cluster: Cluster, workload: Workload, world_size: int, _num_servers: int) -> float:
        end_s = 0.0
        for bucket, released_s in zip(workload.buckets, workload.released_s, strict=True):
            end_s = max(end_s, released_s) + all_reduce_s(cluster, bucket, world_size)
            if bucket.scale_bytes:
                end_s += agreement_s(cluster, bucket.scale_bytes, world_size)
        return end_s + agreement_s(cluster, 1, world_size)

    return step_s


CLOSED_FORMS: dict[str, StepForm] = {
    "ring": _all_reduce_step(ring_s),
    "tree": _all_reduce_step(tree_s),
    "parameter_server": parameter_server_step_s,
}
"""By the algorithm's name. An algorithm that is absent can be simulated only."""


def closed_form_step_s(
    algorithm: str,
    cluster: Cluster,
    workload: Workload,
    world_size: int,
    num_servers: int,
    straggling: Straggling,
) -> float:
    """Seconds of a step in the long run; as of a workload that takes as long as the slowest rank's.

    Raises KeyError for an algorithm that has no closed form.
    """
    if not straggling.is_none:
        factor = straggling.expected_maximum(world_size)
        workload = replace(
            workload,
            compute_s=workload.compute_s * factor,
            ready_s=tuple(ready_s * factor for ready_s in workload.ready_s),
        )
    return CLOSED_FORMS[algorithm](cluster, workload, world_size, num_servers)
