"""The closed form of a parameter-server step: the first and the last worker, bucket by bucket.

All workers do the same, one after the other, so every wait is the longest of a few sums that are
linear in the worker's number: its extremes are at the first and the last. What lies between is
not followed, so the cost is O(buckets) for any number of workers.

In the long run a step is not what it is when all workers begin at once: the server answers them
in turn, so that the first already computes while the last still waits, and pushes come spread in
time. Hence a few steps are followed, and the last ones give the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dmlf.protocol import BucketShape, owner
from dmlf.simulation.timed.links import Cluster
from dmlf.simulation.timed.workload import Workload

Vector = NDArray[np.float64]

STEPS = 3
"""Steps until the distance between the first and the last worker has settled."""


@dataclass(slots=True)
class _Worker:
    """The first or the last worker: its CPU's time, and when its host's port is free."""

    cpu_s: float = 0.0
    out_s: float = 0.0
    in_s: float = 0.0
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Push:
    """One bucket of all workers: its bytes, and when those of the first and the last arrive.

    in_turns: 1 if all ranks of a host wait for its port, 0 if each finds it free.
    """

    size: int
    first_s: float
    last_s: float
    in_turns: float


@dataclass(frozen=True, slots=True)
class _Pull:
    """One bucket's parameters: their bytes, and when those of the first and the last arrive."""

    bucket: int
    size: int
    first_s: float
    last_s: float


@dataclass(slots=True)
class _Server:
    """A server: its CPU's time, and when its port is free."""

    cpu_s: float = 0.0
    in_s: float = 0.0
    out_s: float = 0.0
    owned: list[int] = field(default_factory=list)


def parameter_server_step_s(
    cluster: Cluster, workload: Workload, world_size: int, num_servers: int
) -> float:
    """Seconds of a step in the long run: the mean of the last STEPS - 1."""
    ends_s = parameter_server_ends_s(cluster, workload, world_size, num_servers, STEPS)
    return (ends_s[-1] - ends_s[0]) / (STEPS - 1)


def parameter_server_ends_s(
    cluster: Cluster, workload: Workload, world_size: int, num_servers: int, num_steps: int
) -> list[float]:
    """When the last worker ends each of some steps that follow each other."""
    form = _Form(cluster, workload, world_size, num_servers)
    return [form.step() for _ in range(num_steps)]


class _Form:
    def __init__(
        self, cluster: Cluster, workload: Workload, world_size: int, num_servers: int
    ) -> None:
        self._cluster = cluster
        self._workload = workload
        self._world_size = world_size
        self._mates = min(cluster.ranks_per_host, world_size)
        self._first, self._last = _Worker(), _Worker()
        self._servers = [_Server() for _ in range(num_servers)]
        for index in range(len(workload.buckets)):
            self._servers[owner(index, num_servers)].owned.append(index)

    def step(self) -> float:
        """Follow one step; return when it ends on the last worker."""
        for worker in (self._first, self._last):
            worker.start_s = worker.cpu_s
        pushes: list[list[_Push]] = [[] for _ in self._servers]
        released = zip(self._workload.buckets, self._workload.released_s, strict=True)
        for index, (bucket, released_s) in enumerate(released):
            at = owner(index, len(self._servers))
            for worker in (self._first, self._last):
                worker.cpu_s = max(worker.cpu_s, worker.start_s + released_s)
            if bucket.scale_bytes:
                # A scale is agreed upon once the server has added the bucket before.
                self._add(self._servers[at], pushes[at])
                pushes[at].clear()
                self._agree_scale(self._servers[at], bucket)
            pushes[at].append(self._push(bucket))
        for server, own in zip(self._servers, pushes, strict=True):
            self._add(server, own)
        self._agree_verdict()
        pulls: list[_Pull] = []
        for server in self._servers:
            pulls += [self._pull(server, index) for index in server.owned]
        self._take(pulls)
        return max(self._first.cpu_s, self._last.cpu_s)

    def _push(self, bucket: BucketShape) -> _Push:
        """Every worker sends one bucket: when those of the first and the last arrive."""
        cluster, mates = self._cluster, self._mates
        size = bucket.numel * bucket.partial_itemsize
        out_s = size * cluster.port.s_per_byte
        # Ranks of one host began their step one after the other, or wait for its port.
        spread_s = (self._last.start_s - self._first.start_s) / max(1, self._world_size - 1)
        in_turns = max(0.0, 1 - spread_s / out_s) if size else 0.0
        waits_s = (mates - 1) * out_s * in_turns
        first, last = self._first, self._last
        for worker in (first, last):
            worker.cpu_s += cluster.overhead_s
        first_s = max(first.cpu_s, first.out_s)
        last_s = max(last.cpu_s, last.out_s) + waits_s
        first.out_s, last.out_s = first_s + out_s + waits_s, last_s + out_s
        latency_s = cluster.port.latency_s
        return _Push(size, first_s + latency_s, last_s + latency_s, in_turns)

    def _add(self, server: _Server, pushes: list[_Push]) -> None:
        """The server's port takes all pushes in order of arrival; its CPU adds them in rank order.

        An arrival is done after all that came before it since the port was last idle, which it was
        at the arrival of a first or a last worker's push.
        """
        if not pushes:
            return
        cluster, workers, mates = self._cluster, self._world_size, self._mates
        in_s, out_s = cluster.server_s_per_byte, cluster.port.s_per_byte
        sizes = np.array([push.size for push in pushes], dtype=np.float64)
        first = np.array([push.first_s for push in pushes])
        last = np.array([push.last_s for push in pushes])
        spacing = (last - first) / max(1, workers - 1)

        def bytes_until(moments: Vector, inclusive: bool) -> Vector:
            """Bytes that have arrived at each moment; the moment's own arrival if `inclusive`."""
            since = moments[:, None] - first[None, :]
            with np.errstate(divide="ignore", invalid="ignore"):
                count = np.where(spacing > 0, since / spacing, np.where(since > 0, workers, 0.0))
            # Whole arrivals; what is a rounding error away counts as at the same moment.
            count = np.floor(count + 1e-6) + 1.0 if inclusive else np.ceil(count - 1e-6)
            if inclusive:
                count = np.where(spacing == 0, workers, count)
            count = np.where(since >= 0, count, 0.0)
            counted: Vector = np.clip(count, 0, workers) @ sizes
            return counted

        moments = np.sort(np.concatenate([first, last]))
        idle = np.maximum.accumulate(
            np.maximum(server.in_s, moments) - in_s * bytes_until(moments, inclusive=False)
        )

        def done(arrivals: Vector, inclusive: bool) -> Vector:
            since_idle = idle[np.searchsorted(moments, arrivals, side="right") - 1]
            own = 0.0 if inclusive else sizes
            slow = arrivals + sizes * max(in_s, out_s)
            ended: Vector = np.maximum(
                since_idle + in_s * (bytes_until(arrivals, inclusive) + own), slow
            )
            return ended

        firsts, lasts = done(first, inclusive=False), done(last, inclusive=True)
        server.in_s = float(lasts.max())
        for push, first_s, last_s in zip(pushes, firsts, lasts, strict=True):
            work_s = cluster.overhead_s + push.size * cluster.reduction_s_per_byte
            # The first push is loaded, not added.
            ends = [max(server.cpu_s, float(first_s)) + cluster.overhead_s + (workers - 1) * work_s]
            if workers > 1:
                second_s = first_s + (last_s - first_s) / (workers - 1)
                ends += [float(last_s) + work_s, float(second_s) + (workers - 1) * work_s]
            if mates > 1:
                # Where ranks of a host take turns at its port, the last of the first host comes
                # after almost all, while those behind it in rank order wait to be added.
                turn = ((mates - 1) * cluster.num_hosts(workers) + 1) / workers * push.in_turns
                turn = max(turn, (mates - 1) / workers)
                came_s = first_s + (last_s - first_s) * turn
                ends.append(float(came_s) + (workers - mates + 1) * work_s)
            server.cpu_s = max(ends)

    def _agree_scale(self, server: _Server, bucket: BucketShape) -> None:
        """Every worker sends its scale and waits for the server's answer."""
        cluster, workers = self._cluster, self._world_size
        hop_s = cluster.overhead_s + cluster.port.latency_s
        byte_s = bucket.scale_bytes * max(cluster.server_s_per_byte, cluster.port.s_per_byte)
        first_s, last_s = self._first.cpu_s + hop_s + byte_s, self._last.cpu_s + hop_s + byte_s
        server.cpu_s = max(
            server.cpu_s + workers * cluster.overhead_s,
            first_s + workers * max(cluster.overhead_s, byte_s),
            last_s + cluster.overhead_s,
        )
        begin_s = server.cpu_s
        server.cpu_s += workers * cluster.overhead_s
        server.out_s = max(server.out_s, begin_s) + workers * byte_s
        arrive_s = cluster.port.latency_s + byte_s + cluster.overhead_s
        self._first.cpu_s = begin_s + cluster.overhead_s + arrive_s
        self._last.cpu_s = (
            begin_s
            + max(workers * cluster.overhead_s, cluster.overhead_s + (workers - 1) * byte_s)
            + arrive_s
        )

    def _agree_verdict(self) -> None:
        """The servers agree, then tell every worker."""
        cluster, workers, servers = self._cluster, self._world_size, self._servers
        hop_s = 2 * cluster.overhead_s + cluster.port.latency_s + cluster.server_s_per_byte
        agreed_s = max(server.cpu_s for server in servers)
        agreed_s += (len(servers) - 1).bit_length() * hop_s
        for server in servers:
            server.cpu_s = agreed_s + workers * cluster.overhead_s
            server.out_s = max(server.out_s, agreed_s + cluster.overhead_s)
            server.out_s += workers * cluster.server_s_per_byte
        for worker, before in ((self._first, 1), (self._last, workers)):
            told_s = agreed_s + before * cluster.overhead_s + cluster.port.latency_s
            worker.cpu_s = max(worker.cpu_s, told_s + cluster.port.s_per_byte)
            worker.cpu_s += len(servers) * cluster.overhead_s
            worker.in_s = max(worker.in_s, told_s)

    def _pull(self, server: _Server, index: int) -> _Pull:
        """The server sends one bucket's parameters to every worker."""
        cluster, workers = self._cluster, self._world_size
        size = self._workload.buckets[index].numel * 4
        out_s = size * cluster.server_s_per_byte
        first_s = max(server.out_s, server.cpu_s + cluster.overhead_s)
        server.cpu_s += workers * cluster.overhead_s
        last_s = max(first_s + (workers - 1) * out_s, server.cpu_s)
        server.out_s = last_s + out_s
        latency_s = cluster.port.latency_s
        return _Pull(index, size, first_s + latency_s, last_s + latency_s)

    def _take(self, pulls: list[_Pull]) -> None:
        """A worker's port takes all pulls in order of arrival; its CPU reads them by bucket."""
        cluster, mates = self._cluster, self._mates
        for worker in (self._first, self._last):
            arrivals: list[tuple[float, int, int]] = []  # the first byte's time, ranks, pull
            for number, pull in enumerate(pulls):
                out_s = pull.size * cluster.server_s_per_byte
                if worker is self._last:  # with those of its host's other ranks, just before
                    arrivals.append((pull.last_s - (mates - 1) * out_s, mates, number))
                else:
                    arrivals.append((pull.first_s, 1, number))
                    if mates > 1:
                        arrivals.append((pull.first_s + out_s, mates - 1, number))
            came_s: dict[int, float] = {}
            for at_s, ranks, number in sorted(arrivals):
                size = ranks * pulls[number].size
                worker.in_s = max(
                    max(worker.in_s, at_s) + size * cluster.port.s_per_byte,
                    at_s + size * cluster.server_s_per_byte,
                )
                came_s.setdefault(pulls[number].bucket, worker.in_s)
            for bucket in range(len(self._workload.buckets)):
                worker.cpu_s = max(worker.cpu_s, came_s[bucket]) + cluster.overhead_s
