"""Programs for ranks that use a transport, imported by path in their processes."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from dmlf.conformance.driving import groups
from dmlf.errors import DeadlineExceeded, PeerLost
from dmlf.numerics import Float32Accumulator, fold_sum
from dmlf.protocol import Message, Phase, Tag
from dmlf.runtime import Driver, process_context, run_ranks
from dmlf.runtime.semaphores import name_semaphores
from dmlf.transport import TRANSPORTS, Endpoint, Transport

TIMEOUT_S = 30.0
NUMEL = 10_007


def values(rank: int, step: int, bucket: int = 0) -> Any:
    return np.sin(np.arange(NUMEL) * 0.01 + rank + step * 10 + bucket * 300).astype(np.float32)


def echo_once(endpoint: Endpoint, results: Connection) -> None:
    """Answer the first message of rank 0 with twice its payload."""
    transport = endpoint.connect()
    message = transport.recv(0, TIMEOUT_S)
    transport.send(0, Message(message.tag._replace(src=1), message.payload * 2))
    transport.close()
    results.send("done")


def killed_while_sending(rank: int, argument: tuple[Endpoint, int]) -> None:
    """All ranks map the memory and fill it; the one that is named is killed."""
    endpoint, victim = argument
    transport = endpoint.connect()
    buffer = transport.allocate(1 << 20, np.float32)
    buffer[...] = rank
    for dst in {0, 1, 2} - {rank}:
        transport.send(dst, Message(Tag(0, 0, 0, Phase.PUSH, 0, rank), buffer))
    if rank == victim:
        transport.recv(2, TIMEOUT_S)
        os.kill(os.getpid(), signal.SIGKILL)
    transport.recv(victim, TIMEOUT_S)
    transport.recv(victim, 600.0)


def wait_for_ever(rank: int, endpoint: Endpoint) -> None:
    """All ranks have heard from one another, say so in a line of output, and go on waiting."""
    transport = endpoint.connect()
    peers = [peer for peer in range(3) if peer != rank]
    for peer in peers:
        transport.send(peer, Message(Tag(0, 0, 0, Phase.PUSH, 0, rank), values(rank, 0)))
    for peer in peers:
        transport.recv(peer, TIMEOUT_S)
    os.write(1, b"ready\n")
    transport.recv(peers[0], 600.0)


def launch_and_wait(transport: str) -> None:
    """The life of a launcher that is killed."""
    name_semaphores()
    context = process_context([], threads_per_rank=1)
    endpoints = TRANSPORTS[transport](context, 3)
    run_ranks(context, f"{__name__}:wait_for_ever", endpoints)


PARTS = 8


def reads_from_one_that_hangs(rank: int, argument: tuple[Endpoint, int]) -> None:
    """Rank 1 gets a signal, SIGSTOP or SIGKILL, in the middle of messages of 4 MiB to rank 0.

    What has begun to come must not hold rank 0 longer than its deadline. After SIGSTOP rank 1
    goes on, and so do the messages.
    """
    endpoint, number = argument
    signal.alarm(int(TIMEOUT_S))  # ends a rank that waits for ever
    transport = endpoint.connect()
    expected = np.arange(1 << 20, dtype=np.float32)
    if rank == 1:
        transport.send(0, Message(Tag(0, 0, 0, Phase.PUSH, 0, 1), str(os.getpid()).encode()))
        vector = transport.allocate(expected.size, np.float32)
        vector[...] = expected
        for part in range(PARTS):
            transport.send(0, Message(Tag(0, 0, 0, Phase.PUSH, part, 1), vector))
        transport.recv(0, TIMEOUT_S)
        transport.close()
        return
    pid = int(bytes(transport.recv(1, TIMEOUT_S).payload))
    come = 0

    def take(timeout_s: float) -> None:
        nonlocal come
        while come < PARTS:
            message = transport.recv(1, timeout_s)
            assert message.tag.round == come
            np.testing.assert_array_equal(message.payload, expected)
            come += 1
            if come == 1:
                os.kill(pid, number)

    begun = time.monotonic()
    peer: int | str = 1
    try:
        take(0.5)
    except DeadlineExceeded as error:
        peer = error.peer
    except PeerLost as error:
        peer = f"{error.peer} after {signal.Signals(number).name}"
    assert peer in (1, "rank 1 after SIGKILL")
    assert time.monotonic() - begun < TIMEOUT_S / 2
    if number == signal.SIGKILL:
        transport.abandon()
        return
    os.kill(pid, signal.SIGCONT)
    take(TIMEOUT_S)
    transport.send(1, Message(Tag(0, 0, 0, Phase.PUSH, 0, 0), b""))
    transport.close()


def killed_with_the_locks_of_its_queues(rank: int, endpoint: Endpoint) -> None:
    """Rank 1 dies while it holds the lock of every queue that it writes to."""
    transport: Any = endpoint.connect()
    tag = Tag(0, 0, 0, Phase.PUSH, 0, rank)
    for dst in {0, 1, 2} - {rank}:
        transport.send(dst, Message(tag, values(rank, 0)))
    for src in {0, 1, 2} - {rank}:
        transport.recv(src, TIMEOUT_S)
    if rank == 1:
        for link in transport._outgoing.values():
            link._wlock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    others = 2 - rank
    transport.send(others, Message(tag, values(rank, 0)))
    transport.recv(others, TIMEOUT_S)  # its own links are untouched
    transport.send(1, Message(tag, values(rank, 0)))
    transport.recv(1, 600.0)


def late_reader(rank: int, argument: tuple[Endpoint, int]) -> None:
    """Everybody sends to everybody and reads what came."""
    endpoint, size = argument
    transport = endpoint.connect()
    peers = [peer for peer in range(size) if peer != rank]
    for peer in peers:
        transport.send(peer, Message(Tag(0, 0, 0, Phase.PUSH, 0, rank), values(rank, 0)))
    for peer in peers:
        np.testing.assert_array_equal(transport.recv(peer, TIMEOUT_S).payload, values(peer, 0))
    transport.close()


class LateTransport:
    """Delays every receive's return, so that the payload is read long after it was sent."""

    def __init__(self, transport: Transport, delay_s: float) -> None:
        self._transport = transport
        self._delay_s = delay_s
        self.allocate = transport.allocate
        self.send = transport.send
        self.close = transport.close
        self.abandon = transport.abandon

    def recv(self, src: int, timeout_s: float) -> Message:
        message = self._transport.recv(src, timeout_s)
        until = time.monotonic() + self._delay_s
        while time.monotonic() < until:  # others go on meanwhile, as far as the protocol lets them
            os.sched_yield()
        return message


class Registered:
    """Gradients and parameters in registered memory, written anew in every step."""

    def __init__(self, transport: Transport, rank: int, held: list[int], expected: Any) -> None:
        self.flat = {bucket: transport.allocate(NUMEL, np.float32) for bucket in held}
        self.parameters = {bucket: transport.allocate(NUMEL, np.float32) for bucket in held}
        self.rank = rank
        self.expected = expected
        self.checked = dict.fromkeys(held, 0)

    def gradient(self, step: int, bucket: int) -> Float32Accumulator:
        return Float32Accumulator(self.rank, self.flat[bucket])

    def apply(self, step: int) -> None:
        for bucket, flat in self.flat.items():
            np.testing.assert_array_equal(flat, self.expected(step, bucket))
            self.parameters[bucket][...] = flat
            self.checked[bucket] += 1
            flat[...] = np.nan  # a reader that is still there would see this

    def read_parameters(self, bucket: int) -> Any:
        return self.parameters[bucket]

    def write_parameters(self, bucket: int, payload: Any) -> None:
        np.testing.assert_array_equal(payload, self.expected(self.checked[bucket], bucket))
        self.checked[bucket] += 1


def train_with_a_late_reader(rank: int, argument: tuple[Endpoint, str, int]) -> dict[int, int]:
    """Steps with a rank that reads late, another one in each step; checked sums by bucket."""
    endpoint, name, num_steps = argument
    world_size, num_buckets = 3, 2
    group = groups([name.partition("-")[0]])[name]
    fold = group.algorithm.fold(NUMEL, world_size)

    def expected(step: int, bucket: int) -> Any:
        return fold_sum(fold, [values(worker, step, bucket) for worker in range(world_size)])

    transport = endpoint.connect()
    held = group.held(rank, world_size, num_buckets)
    local = Registered(transport, rank, held, expected)
    member = group.member(rank, world_size)
    for step in range(num_steps):
        late = step % member.group_size == rank
        driver = Driver(LateTransport(transport, 2e-3 if late else 0.0), local, TIMEOUT_S)
        if rank < world_size:
            for bucket, flat in local.flat.items():
                flat[...] = values(rank, step, bucket)
        driver.run(group.algorithm.rank_step(member, step, num_buckets))
    transport.close()
    return local.checked
