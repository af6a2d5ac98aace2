"""The driver fulfils effects over a transport and counts what they cost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dmlf.conformance.driving import groups
from dmlf.conformance.groups import close_all, group
from dmlf.errors import DeadlineExceeded, StepMismatch
from dmlf.numerics import Float32Accumulator
from dmlf.protocol import BucketShape, Member, Message, Phase, Tag, registry
from dmlf.runtime import Driver
from tests.transport.every import EVERY_TRANSPORT

GROUPS = groups(registry())


class Vector:
    """A rank whose parameters become the reduced gradient: index-dependent values."""

    def __init__(self, rank: int, numel: int) -> None:
        self.flat = (np.arange(numel) * 0.37 + rank * 11.3).astype(np.float32)
        self.accumulator = Float32Accumulator(rank, self.flat)
        self.applied: list[int] = []

    def gradient(self, step: int, bucket: int) -> Float32Accumulator:
        return self.accumulator

    def apply(self, step: int) -> None:
        self.applied.append(step)

    def read_parameters(self, bucket: int) -> np.ndarray:
        return self.flat

    def write_parameters(self, bucket: int, payload: np.ndarray) -> None:
        self.flat[...] = payload


@pytest.mark.parametrize("transport", EVERY_TRANSPORT)
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_a_step_over_a_real_transport(transport: str, name: str, world_size: int) -> None:
    """One bucket: of several servers only the first has it, and all take part in the verdict."""
    roles, numel = GROUPS[name], 1013
    algorithm, size = roles.algorithm, roles.size(world_size)
    links = group(transport, size)
    locals_ = [Vector(rank, numel) for rank in range(size)]
    drivers = [Driver(links[rank], locals_[rank], 30.0) for rank in range(size)]
    expected = np.sum([Vector(rank, numel).flat for rank in range(world_size)], axis=0)

    def step(rank: int) -> None:
        drivers[rank].run(algorithm.rank_step(roles.member(rank, world_size), 0, 1))

    with ThreadPoolExecutor(size) as pool:
        list(pool.map(step, range(size)))
    close_all(links)  # in one process both ends of a link are one object: when all are done
    assert [len(local.applied) for local in locals_[world_size:]] == [1] * roles.num_servers
    for local in locals_[: world_size + 1]:
        np.testing.assert_allclose(local.flat, expected, rtol=1e-5)
        np.testing.assert_array_equal(local.flat, locals_[0].flat)
    predicted = algorithm.traffic([BucketShape(numel)], world_size, roles.num_servers)
    assert sum(driver.messages_sent for driver in drivers) == predicted.messages
    assert sum(driver.payload_bytes_sent for driver in drivers) == predicted.payload_bytes


@pytest.mark.parametrize("transport", EVERY_TRANSPORT)
def test_a_stale_message_is_refused_by_name(transport: str) -> None:
    first, second = group(transport, 2)
    first.send(1, Message(Tag(0, 4, 0, Phase.REDUCE_SCATTER, 0, 0), np.zeros(2, np.float32)))
    driver = Driver(second, Vector(1, 4), 30.0)
    with pytest.raises(StepMismatch) as caught:
        driver.run(registry()["ring"].rank_step(Member(1, 2), 5, 1))
    assert caught.value.rank == 1
    assert caught.value.expected.step == 5
    assert caught.value.received.step == 4
    assert first.recv(1, 30.0).tag.step == 5  # what rank 1 sent before
    close_all([first, second])


@pytest.mark.parametrize("transport", EVERY_TRANSPORT)
def test_a_silent_peer_ends_at_the_deadline(transport: str) -> None:
    first, second = group(transport, 2)
    driver = Driver(second, Vector(1, 4), 0.05)
    with pytest.raises(DeadlineExceeded) as caught:
        driver.run(registry()["ring"].rank_step(Member(1, 2), 0, 1))
    assert caught.value.peer == 0
    assert first.recv(1, 30.0).tag.phase is Phase.REDUCE_SCATTER
    close_all([first, second])


@pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])
def test_a_wait_can_be_interrupted_and_keeps_its_own_timeout(transport: str) -> None:
    first, second = group(transport, 2)

    class Ordered(Exception):
        pass

    def stop() -> None:
        raise Ordered

    step = registry()["ring"].rank_step
    with pytest.raises(Ordered):
        Driver(second, Vector(1, 4), 30.0, interrupt=stop).run(step(Member(1, 2), 5, 1))
    looks: list[int] = []
    patient = Driver(second, Vector(1, 4), 0.6, interrupt=lambda: looks.append(1))
    with pytest.raises(DeadlineExceeded) as caught:
        patient.run(step(Member(1, 2), 5, 1))
    assert (caught.value.peer, caught.value.timeout_s) == (0, 0.6)
    assert len(looks) == 3
    for transport_ in (first, second):
        transport_.abandon()
