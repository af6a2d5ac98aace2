"""Synchronous parameter server: workers push gradients, servers apply them, workers pull.

The servers own the parameters and the optimizer, each of them the buckets of its own
(`dmlf.protocol.ownership`); one server owns everything. In each step the owner of a bucket adds
the pushes of all workers in rank order. When the servers have agreed that all their sums are
complete and finite, and not before, each lets the optimizer step once, and answers every worker
with its verdict and its new parameters. So a step is applied by all servers or by none. A push
asks for its pull: no worker sends anything between the two, so no request message is needed.

Source: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014,
in the bulk-synchronous form of Valiant, "A bridging model for parallel computation", 1990.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dmlf.errors import NonFiniteGradient
from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.agree import COMMIT, agree_verdict, agreement_messages
from dmlf.protocol.algorithm import Algorithm, BucketShape, Fold, Traffic, register
from dmlf.protocol.effects import (
    Apply,
    Gradient,
    Member,
    ReadParameters,
    Send,
    Steps,
    WriteParameters,
    receive,
)
from dmlf.protocol.ownership import owned_buckets, owner
from dmlf.protocol.tags import Phase, Tag


def fold(numel: int, world_size: int) -> list[tuple[slice, Fold]]:
    """Published order of additions: rank 0, then 1, then 2, ... for the whole bucket."""
    order: Fold = 0
    for rank in range(1, world_size):
        order = (order, rank)
    return [(slice(0, numel), order)]


def traffic(buckets: Sequence[BucketShape], world_size: int, num_servers: int) -> Traffic:
    """W pushes and W pulls a bucket, 2 W scales if there are any; the verdict of a step.

    The servers agree on it in S ceil(log2 S) one-byte messages, and each tells all W workers.
    """
    verdicts = agreement_messages(num_servers) + num_servers * world_size
    total = Traffic(verdicts, verdicts)
    for bucket in buckets:
        partial, reduced = bucket.numel * bucket.partial_itemsize, bucket.numel * 4
        total += Traffic(2 * world_size, world_size * (partial + reduced))
        if bucket.scale_bytes:
            total += Traffic(2 * world_size, 2 * world_size * bucket.scale_bytes)
    return total


def worker_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
    """Push the local gradient of every bucket, wait for the verdicts, pull the parameters.

    Cost per worker: num_buckets pushes and as many pulls of the whole bucket.
    Raises NonFiniteGradient when the servers refused the step; parameters are then unchanged.
    """
    start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
    for index in range(num_buckets):
        server = member.world_size + owner(index, member.num_servers)
        bucket: Accumulator = yield Gradient(step, index)
        mine = start._replace(bucket=index)
        scale = bucket.scale()
        if scale is not None:
            yield Send(server, mine.of(Phase.SCALE, 0, member.rank), scale)
            agreed = yield from receive(member, mine.of(Phase.SCALE, 0, server))
            bucket.merge_scale(agreed)
        bucket.begin()
        yield Send(server, mine, bucket.partial(slice(0, bucket.numel)))

    committed = True
    for server in member.servers:
        verdict = yield from receive(member, start.of(Phase.COMMIT, 0, server))
        committed = committed and verdict == COMMIT
    if not committed:
        raise NonFiniteGradient(step)
    for index in range(num_buckets):
        server = member.world_size + owner(index, member.num_servers)
        pull = start._replace(bucket=index, phase=Phase.PULL, src=server)
        parameters = yield from receive(member, pull)
        yield WriteParameters(index, parameters)


def server_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
    """Add every worker's push in rank order, apply once all servers can, answer every worker.

    Raises NonFiniteGradient, after telling every worker, when a sum is not finite on any server.
    """
    workers = range(member.world_size)
    owned = owned_buckets(member.rank - member.world_size, num_buckets, member.num_servers)
    start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
    finite = True
    for index in owned:
        bucket: Accumulator = yield Gradient(step, index)
        at = start._replace(bucket=index)
        if bucket.scale() is not None:
            scale = at._replace(phase=Phase.SCALE)
            for worker in workers:
                bucket.merge_scale((yield from receive(member, scale._replace(src=worker))))
            for worker in workers:
                yield Send(worker, scale, bucket.scale())
        everything = slice(0, bucket.numel)
        pushes = []
        for worker in workers[:2]:
            pushes.append((yield from receive(member, at._replace(src=worker))))
        bucket.load(everything, *pushes)  # in one pass, without a copy of either
        last: list[Any] = []
        for worker in workers[2:]:
            bucket.add(everything, *last)
            last = [(yield from receive(member, at._replace(src=worker)))]
        bucket.finish(everything, *last)
        finite = finite and bucket.is_finite()

    verdict = yield from agree_verdict(member, member.servers, step, finite)
    if verdict == COMMIT:
        yield Apply(step)
    for worker in workers:
        yield Send(worker, start._replace(phase=Phase.COMMIT), verdict)
    if verdict != COMMIT:
        raise NonFiniteGradient(step)
    for index in owned:
        parameters = yield ReadParameters(index)
        for worker in workers:
            yield Send(worker, start._replace(bucket=index, phase=Phase.PULL), parameters)


register(Algorithm("parameter_server", worker_step, server_step, fold, traffic))
