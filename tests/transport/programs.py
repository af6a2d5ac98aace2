"""Programs for ranks that use a transport, imported by path in their processes."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from dmlf.numerics import Float32Accumulator, fold_sum
from dmlf.protocol import Member, Message, Phase, Tag, registry
from dmlf.runtime import Driver
from dmlf.transport import Endpoint, Transport

TIMEOUT_S = 30.0
NUMEL = 10_007


def values(rank: int, step: int) -> Any:
    return np.sin(np.arange(NUMEL) * 0.01 + rank + step * 10).astype(np.float32)


def echo_once(endpoint: Endpoint, results: Connection) -> None:
    """Answer the first message of rank 0 with twice its payload."""
    transport = endpoint.connect()
    message = transport.recv(0, TIMEOUT_S)
    transport.send(0, Message(message.tag._replace(src=1), message.payload * 2))
    transport.close()
    results.send("done")


def killed_while_sending(rank: int, endpoint: Endpoint) -> None:
    """All ranks map the memory and fill it; rank 1 is killed."""
    transport = endpoint.connect()
    buffer = transport.allocate(1 << 20, np.float32)
    buffer[...] = rank
    for dst in {0, 1, 2} - {rank}:
        transport.send(dst, Message(Tag(0, 0, 0, Phase.PUSH, 0, rank), buffer))
    if rank == 1:
        transport.recv(0, TIMEOUT_S)
        os.kill(os.getpid(), signal.SIGKILL)
    transport.recv(1, TIMEOUT_S)
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
        self.send = transport.send

    def recv(self, src: int, timeout_s: float) -> Message:
        message = self._transport.recv(src, timeout_s)
        until = time.monotonic() + self._delay_s
        while time.monotonic() < until:  # others go on meanwhile, as far as the protocol lets them
            os.sched_yield()
        return message


class Registered:
    """Gradients and parameters in registered memory, written anew in every step."""

    def __init__(self, transport: Transport, rank: int, expected: Any) -> None:
        self.flat = transport.allocate(NUMEL, np.float32)
        self.parameters = transport.allocate(NUMEL, np.float32)
        self.rank = rank
        self.expected = expected
        self.checked = 0

    def gradient(self, step: int, bucket: int) -> Float32Accumulator:
        return Float32Accumulator(self.rank, self.flat)

    def apply(self, step: int) -> None:
        np.testing.assert_array_equal(self.flat, self.expected(step))
        self.parameters[...] = self.flat
        self.checked += 1
        self.flat[...] = np.nan  # a reader that is still there would see this

    def read_parameters(self, bucket: int) -> Any:
        return self.parameters

    def write_parameters(self, bucket: int, payload: Any) -> None:
        np.testing.assert_array_equal(payload, self.expected(self.checked))
        self.checked += 1


def train_with_a_late_reader(rank: int, argument: tuple[Endpoint, str, int]) -> int:
    """Steps with a rank that reads late, another one in each step; the number of checked sums."""
    endpoint, name, num_steps = argument
    algorithm, world_size = registry()[name], 3
    fold = algorithm.fold(NUMEL, world_size)

    def expected(step: int) -> Any:
        return fold_sum(fold, [values(worker, step) for worker in range(world_size)])

    transport = endpoint.connect()
    local = Registered(transport, rank, expected)
    member = Member(rank, world_size, algorithm.num_servers)
    for step in range(num_steps):
        late = step % member.group_size == rank
        driver = Driver(LateTransport(transport, 2e-3 if late else 0.0), local, TIMEOUT_S)
        if rank < world_size:
            local.flat[...] = values(rank, step)
        driver.run(algorithm.rank_step(member, step, 1))
    transport.close()
    return local.checked
