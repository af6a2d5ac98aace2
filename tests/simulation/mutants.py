"""Algorithms with one realistic bug each. The simulator must catch every one of them.

None is registered. Each is as close to the real algorithm as the bug allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dmlf.errors import NonFiniteGradient
from dmlf.protocol import (
    Accumulator,
    Algorithm,
    Apply,
    BucketShape,
    Gradient,
    Member,
    Phase,
    ReadParameters,
    Recv,
    Send,
    Steps,
    Tag,
    Traffic,
    WriteParameters,
    chunk_slices,
    owned_buckets,
    receive,
    validate,
)
from dmlf.protocol.agree import ABORT_NON_FINITE, COMMIT, agree, agree_verdict, commit
from dmlf.protocol.algorithm import AllReduce, RankStep
from dmlf.protocol.algorithms import parameter_server, ring, tree

Receive = Callable[[Member, Tag], Steps[Any]]


def no_traffic(_buckets: Sequence[BucketShape], _world_size: int, _num_servers: int) -> Traffic:
    """Mutants are never measured."""
    return Traffic(0, 0)


def scale_of(bucket: Accumulator) -> bytes:
    """The scale of an accumulator that has one."""
    return bucket.scale() or b""


def lax_receive(*unchecked: str) -> Receive:
    """`receive` that does not look at some fields of the tag."""

    def receive_lax(member: Member, expected: Tag) -> Steps[Any]:
        message = yield Recv(expected.src, expected)
        forgiven = {name: getattr(expected, name) for name in unchecked}
        validate(member.rank, expected, message.tag._replace(**forgiven))
        return message.payload

    return receive_lax


def peer_to_peer(
    name: str,
    all_reduce: AllReduce,
    fold: Any = ring.fold,
    *,
    commits: bool = True,
    heeds_verdict: bool = True,
    applies: bool = True,
) -> Algorithm:
    """An all-reduce algorithm with the frame of a whole step, or without a part of it."""

    def worker_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
        finite = True
        for index in range(num_buckets):
            bucket: Accumulator = yield Gradient(step, index)
            at = Tag(member.generation, step, index, Phase.SCALE, 0, member.rank)
            if bucket.scale() is not None:
                workers = range(member.world_size)
                yield from agree(member, workers, at, partial(scale_of, bucket), bucket.merge_scale)
            bucket.begin()
            yield from all_reduce(member, at, bucket)
            finite = finite and bucket.is_finite()
        if commits:
            yield from commit(member, step, finite or not heeds_verdict)
        if applies or member.rank:
            yield Apply(step)

    return Algorithm(name, worker_step, None, fold, no_traffic)


def ring_all_reduce(
    *,
    receive: Receive = receive,
    added: int = -1,
    stored: int = 0,
    finishes: bool = True,
    receives_first: bool = False,
    forwards_received: bool = False,
    reuses_sent: bool = False,
) -> AllReduce:
    """The ring, with the places where it can go wrong.

    added, stored: which chunk, counted from rank - k, the incoming one is added and stored to.
    """

    def all_reduce(member: Member, at: Tag, bucket: Accumulator) -> Steps[None]:
        rank, size = member.rank, member.world_size
        right, left = (rank + 1) % size, (rank - 1) % size
        chunks = chunk_slices(bucket.numel, size)
        for k in range(size - 1):
            outgoing, incoming = chunks[(rank - k) % size], chunks[(rank - k + added) % size]
            tag = at._replace(phase=Phase.REDUCE_SCATTER, round=k)
            sent = bucket.partial(outgoing)
            if receives_first:
                payload = yield from receive(member, tag._replace(src=left))
                yield Send(right, tag._replace(src=rank), sent)
            else:
                yield Send(right, tag._replace(src=rank), sent)
                if reuses_sent:
                    sent.values.fill(0)
                payload = yield from receive(member, tag._replace(src=left))
            bucket.add(incoming, payload)
        if finishes:
            bucket.finish(chunks[(rank + 1) % size])
        payload = bucket.reduced(chunks[(rank + 1) % size])
        for k in range(size - 1):
            outgoing, incoming = chunks[(rank + 1 - k) % size], chunks[(rank - k + stored) % size]
            tag = at._replace(phase=Phase.ALL_GATHER, round=k)
            kept = payload if forwards_received else bucket.reduced(outgoing)
            yield Send(right, tag._replace(src=rank), kept)
            payload = yield from receive(member, tag._replace(src=left))
            bucket.store(incoming, payload)

    return all_reduce


def ring_variant(name: str, **bug: Any) -> Algorithm:
    """The ring with one bug inside the all-reduce."""
    return peer_to_peer(name, ring_all_reduce(**bug))


def server_variant(
    name: str, worker_step: RankStep | None = None, server_step: RankStep | None = None
) -> Algorithm:
    """The parameter server with another worker or server."""
    worker = worker_step or parameter_server.worker_step
    server = server_step or parameter_server.server_step
    return Algorithm(name, worker, server, parameter_server.fold, no_traffic)


def answer(member: Member, start: Tag, num_buckets: int) -> Steps[None]:
    """The server's answer to all workers."""
    for worker in range(member.world_size):
        yield Send(worker, start._replace(phase=Phase.COMMIT), COMMIT)
    for index in range(num_buckets):
        parameters = yield ReadParameters(index)
        for worker in range(member.world_size):
            pull = start._replace(bucket=index, phase=Phase.PULL)
            yield Send(worker, pull, parameters)


def server_adding(order: Callable[[Member, int], list[int]]) -> RankStep:
    """A float32 server that adds the pushes of the workers in `order(member, step)`."""

    def server_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
        start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
        for index in range(num_buckets):
            bucket: Accumulator = yield Gradient(step, index)
            everything = slice(0, bucket.numel)
            received: dict[int, Any] = {}
            for worker in order(member, step):
                if worker not in received:
                    push = start._replace(bucket=index, src=worker)
                    received[worker] = yield from receive(member, push)
                    (bucket.add if len(received) > 1 else bucket.load)(everything, received[worker])
                else:  # in the order twice
                    bucket.add(everything, bucket.partial(everything))
            bucket.finish(everything)
        yield Apply(step)
        yield from answer(member, start, num_buckets)

    return server_step


def server_that_collects(*, rereads: bool) -> RankStep:
    """A float32 server that adds up what it has collected: of one bucket, or too late, of all."""

    def server_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
        start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
        buckets: list[Accumulator] = []
        for index in range(num_buckets):
            buckets.append((yield Gradient(step, index)))
        groups = [range(num_buckets)] if rereads else [[index] for index in range(num_buckets)]
        for group in groups:
            pushes: dict[int, list[Any]] = {}
            for index in group:
                pushes[index] = []
                for worker in range(member.world_size):
                    push = start._replace(bucket=index, src=worker)
                    pushes[index].append((yield from receive(member, push)))
            for index in group:
                everything = slice(0, buckets[index].numel)
                buckets[index].load(everything, *pushes[index])
                buckets[index].finish(everything)
        yield Apply(step)
        yield from answer(member, start, num_buckets)

    return server_step


def in_order_of_arrival() -> Algorithm:
    """The server adds the pushes as they come: a side channel tells it who pushed first."""
    pushed: list[int] = []

    def worker_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
        pushed.append(member.rank)
        yield from parameter_server.worker_step(member, step, num_buckets)

    def arrival(member: Member, _step: int) -> list[int]:
        latest = list(dict.fromkeys(reversed(pushed)))[: member.world_size]
        return latest + [rank for rank in range(member.world_size) if rank not in latest]

    return server_variant("arrival_order_sum", worker_step, server_adding(arrival))


def server_answers_early(member: Member, step: int, num_buckets: int) -> Steps[None]:
    """Applies as soon as one push is in and takes the others afterwards."""
    start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
    buckets = []
    for index in range(num_buckets):
        bucket: Accumulator = yield Gradient(step, index)
        push = start._replace(bucket=index, src=0)
        bucket.load(slice(0, bucket.numel), (yield from receive(member, push)))
        buckets.append(bucket)
    yield Apply(step)
    yield from answer(member, start, num_buckets)
    for worker in range(1, member.world_size):
        for index in range(num_buckets):
            yield from receive(member, start._replace(bucket=index, src=worker))


def sharded_server(*, applies_at_once: bool = False, heeds_verdict: bool = True) -> RankStep:
    """A float32 server among several, with the places where its commit can go wrong.

    applies_at_once: as soon as its own sums are there; the servers' verdict comes afterwards.
    heeds_verdict: applies what the servers agreed upon, else whatever it holds itself.
    """

    def server_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
        start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
        owned = owned_buckets(member.rank - member.world_size, num_buckets, member.num_servers)
        finite = True
        for index in owned:
            bucket: Accumulator = yield Gradient(step, index)
            everything = slice(0, bucket.numel)
            for worker in range(member.world_size):
                payload = yield from receive(member, start._replace(bucket=index, src=worker))
                (bucket.add if worker else bucket.load)(everything, payload)
            bucket.finish(everything)
            finite = finite and bucket.is_finite()
        if applies_at_once and finite:
            yield Apply(step)
        verdict = yield from agree_verdict(member, member.servers, step, finite)
        committed = verdict == COMMIT if heeds_verdict else finite
        if committed and not applies_at_once:
            yield Apply(step)
        for worker in range(member.world_size):
            answer = COMMIT if committed else ABORT_NON_FINITE
            yield Send(worker, start._replace(phase=Phase.COMMIT), answer)
        if not committed:
            raise NonFiniteGradient(step)
        for index in owned:
            parameters = yield ReadParameters(index)
            for worker in range(member.world_size):
                yield Send(worker, start._replace(bucket=index, phase=Phase.PULL), parameters)

    return server_step


def server_answers_with_old_parameters(member: Member, step: int, num_buckets: int) -> Steps[None]:
    """Reads the parameters before the optimizer has applied the step."""
    start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
    old = []
    for index in range(num_buckets):
        bucket: Accumulator = yield Gradient(step, index)
        everything = slice(0, bucket.numel)
        for worker in range(member.world_size):
            push = start._replace(bucket=index, src=worker)
            payload = yield from receive(member, push)
            (bucket.add if worker else bucket.load)(everything, payload)
        bucket.finish(everything)
        parameters = yield ReadParameters(index)
        old.append(parameters.copy())
    yield Apply(step)
    for worker in range(member.world_size):
        yield Send(worker, start._replace(phase=Phase.COMMIT), COMMIT)
    for index, parameters in enumerate(old):
        for worker in range(member.world_size):
            pull = start._replace(bucket=index, phase=Phase.PULL)
            yield Send(worker, pull, parameters)


def lax_worker_step(*unchecked: str) -> RankStep:
    """A float32 worker that does not look at some fields of what the server says."""
    receive_lax = lax_receive(*unchecked)

    def worker_step(member: Member, step: int, num_buckets: int) -> Steps[None]:
        server = member.world_size
        start = Tag(member.generation, step, 0, Phase.PUSH, 0, member.rank)
        for index in range(num_buckets):
            bucket: Accumulator = yield Gradient(step, index)
            push = start._replace(bucket=index)
            yield Send(server, push, bucket.partial(slice(0, bucket.numel)))
        verdict = start._replace(phase=Phase.COMMIT, src=server)
        if (yield from receive_lax(member, verdict)) != COMMIT:
            raise NonFiniteGradient(step)
        for index in range(num_buckets):
            pull = start._replace(bucket=index, phase=Phase.PULL, src=server)
            yield WriteParameters(index, (yield from receive_lax(member, pull)))

    return worker_step


def tree_that_crashes(member: Member, at: Tag, bucket: Accumulator) -> Steps[None]:
    """Looks up a chunk that does not exist when the world size is no power of two."""
    chunk = chunk_slices(bucket.numel, 1 << (member.world_size.bit_length() - 1))[member.rank]
    bucket.partial(chunk)
    yield from tree.all_reduce(member, at, bucket)
