"""Synchronous parameter server: workers push gradients, one server applies them, workers pull.

The server owns the parameters and the optimizer. In each step it adds the pushes of all workers
in rank order, lets the optimizer step once, and answers every worker with the new parameters. A
push asks for its pull: no worker sends anything between the two, so no request message is needed.

Source: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014,
in the bulk-synchronous form of Valiant, "A bridging model for parallel computation", 1990.
"""

from __future__ import annotations

from collections.abc import Sequence

from dmlf.errors import NonFiniteGradient
from dmlf.protocol.accumulator import Accumulator
from dmlf.protocol.agree import ABORT_NON_FINITE, COMMIT
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
from dmlf.protocol.tags import Phase, Tag


def fold(numel: int, world_size: int) -> list[tuple[slice, Fold]]:
    """Published order of additions: rank 0, then 1, then 2, ... for the whole bucket."""
    order: Fold = 0
    for rank in range(1, world_size):
        order = (order, rank)
    return [(slice(0, numel), order)]


def traffic(buckets: Sequence[BucketShape], world_size: int) -> Traffic:
    """W pushes and W pulls a bucket, W one-byte verdicts a step, 2 W scales if there are any."""
    total = Traffic(world_size, world_size)
    for bucket in buckets:
        partial, reduced = bucket.numel * bucket.partial_itemsize, bucket.numel * 4
        total += Traffic(2 * world_size, world_size * (partial + reduced))
        if bucket.scale_bytes:
            total += Traffic(2 * world_size, 2 * world_size * bucket.scale_bytes)
    return total


def worker_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
    """Push the local gradient of every bucket, wait for the verdict, pull the parameters.

    Cost per worker: num_buckets pushes and as many pulls of the whole bucket.
    Raises NonFiniteGradient when the server refused the step; parameters are then unchanged.
    """
    server = member.world_size
    start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
    for index in range(num_buckets):
        bucket: Accumulator = yield Gradient(step, index)
        mine = start._replace(bucket=index)
        scale = bucket.scale()
        if scale is not None:
            yield Send(server, mine.of(Phase.SCALE, 0, member.rank), scale)
            agreed = yield from receive(member, mine.of(Phase.SCALE, 0, server))
            bucket.merge_scale(agreed)
        bucket.begin()
        yield Send(server, mine, bucket.partial(slice(0, bucket.numel)))

    verdict = yield from receive(member, start.of(Phase.COMMIT, 0, server))
    if verdict != COMMIT:
        raise NonFiniteGradient(step)
    for index in range(num_buckets):
        pull = start._replace(bucket=index, phase=Phase.PULL, src=server)
        parameters = yield from receive(member, pull)
        yield WriteParameters(index, parameters)


def server_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
    """Add every worker's push in rank order, apply once, answer every worker.

    Raises NonFiniteGradient, after telling every worker, when the sum is not finite.
    """
    workers = range(member.world_size)
    start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
    finite = True
    for index in range(num_buckets):
        bucket: Accumulator = yield Gradient(step, index)
        at = start._replace(bucket=index)
        if bucket.scale() is not None:
            scale = at._replace(phase=Phase.SCALE)
            for worker in workers:
                bucket.merge_scale((yield from receive(member, scale._replace(src=worker))))
            for worker in workers:
                yield Send(worker, scale, bucket.scale())
        everything = slice(0, bucket.numel)
        for worker in workers:
            payload = yield from receive(member, at._replace(src=worker))
            if worker == 0:
                bucket.load(everything, payload)
            else:
                bucket.add(everything, payload)
        bucket.finish(everything)
        finite = finite and bucket.is_finite()

    if finite:
        yield Apply(step)
    for worker in workers:
        verdict = COMMIT if finite else ABORT_NON_FINITE
        yield Send(worker, start._replace(phase=Phase.COMMIT), verdict)
    if not finite:
        raise NonFiniteGradient(step)
    for index in range(num_buckets):
        parameters = yield ReadParameters(index)
        for worker in workers:
            yield Send(worker, start._replace(bucket=index, phase=Phase.PULL), parameters)


register(Algorithm("parameter_server", worker_step, server_step, fold, traffic))
