"""What only the transport `shm` promises: registered buffers, reused space, nothing left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmlf.conformance.leftovers import shared_memory
from dmlf.errors import DeadlineExceeded, PeerLost, TransportError
from dmlf.protocol import Message, Phase, Tag
from dmlf.runtime import process_context, run_ranks
from dmlf.transport.shm import ShmTransport, create_endpoints
from dmlf.transport.shm import transport as module
from dmlf.transport.shm.links import INLINE_BYTES
from dmlf.transport.shm.memory import SEGMENT_SLOTS, physical_bytes
from dmlf.transport.waiting import LOOK_S

TIMEOUT_S = 30.0
PROGRAMS = "dmlf.conformance.programs"
SPAWN = multiprocessing.get_context("spawn")


def group(group_size: int, arena_bytes: int | None = None) -> list[ShmTransport]:
    return [endpoint.connect() for endpoint in create_endpoints(SPAWN, group_size, arena_bytes)]


def tag(round_: int = 0, src: int = 0) -> Tag:
    return Tag(3, 5, 2, Phase.PUSH, round_, src)


def values(length: int, seed: int) -> np.ndarray:
    return (np.arange(length) * 3 + seed).astype(np.float32)


def arena_bytes_used(transport: ShmTransport) -> int:
    return transport._arena._free


def descriptors() -> set[tuple[str, str]]:
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.add((path.name, str(path.readlink())))
        except FileNotFoundError:  # the one that listed the folder
            continue
    return found


@pytest.fixture
def sleepless(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the sleeps in a receive."""
    sleeps: list[int] = []
    real = module.kernel.wait_while

    def counted(address: int, value: int, timeout_s: float) -> None:
        sleeps.append(address)
        real(address, value, timeout_s)

    monkeypatch.setattr(module.kernel, "wait_while", counted)
    return sleeps


def test_a_registered_vector_is_zero_aligned_and_apart() -> None:
    (transport,) = group(1)
    first, second = transport.allocate(5, np.float32), transport.allocate(3, np.int64)
    for vector, numel, dtype in ((first, 5, np.float32), (second, 3, np.int64)):
        assert (vector.shape, vector.dtype) == ((numel,), dtype)
        assert vector.ctypes.data % 64 == 0
        assert not vector.any()
        vector[...] = 7
    assert first.tolist() == [7] * 5
    assert transport.allocate(0, np.float32).size == 0


@pytest.mark.parametrize("part", [slice(None), slice(10, 900), slice(0, 0)])
def test_a_registered_payload_arrives_in_place(part: slice) -> None:
    first, second = group(2)
    buffer = first.allocate(1000, np.float32)
    buffer[...] = values(1000, 1)
    first.send(1, Message(tag(), buffer[part]))
    received = second.recv(0, TIMEOUT_S).payload
    np.testing.assert_array_equal(received, values(1000, 1)[part])
    buffer[...] = values(1000, 2)  # what a protocol must not do shows that nothing was copied
    np.testing.assert_array_equal(received, values(1000, 2)[part])


def test_a_send_of_registered_memory_takes_no_space() -> None:
    first, second = group(2)
    buffer = first.allocate(1 << 20, np.float32)
    used = arena_bytes_used(first)
    for index in range(3 * SEGMENT_SLOTS):
        first.send(1, Message(tag(index), buffer))
        assert second.recv(0, TIMEOUT_S).tag == tag(index)
    # The reader is done with a message at its next receive: one more segment at most.
    assert arena_bytes_used(first) - used <= 256 * SEGMENT_SLOTS


def test_a_receiver_cannot_write_to_its_peer() -> None:
    first, second = group(2)
    first.send(1, Message(tag(), first.allocate(10, np.float32)))
    received = second.recv(0, TIMEOUT_S).payload
    assert not received.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        received.flags.writeable = True


@pytest.mark.parametrize("length", [1, INLINE_BYTES // 4, INLINE_BYTES // 4 + 1, 30_000])
def test_a_copy_is_kept_until_the_receiver_has_done_with_it(length: int) -> None:
    """A sender that runs ahead, one that is read late: every message keeps its own bytes."""
    first, second = group(2)
    payload = np.empty(length, dtype=np.float32)
    sent = 0
    for burst in (1, 2, 100, 3, 200):
        for _ in range(burst):
            payload[...] = values(length, sent)
            first.send(1, Message(tag(sent), payload))
            sent += 1
        for number in range(sent - burst, sent):
            received = second.recv(0, TIMEOUT_S)
            payload[...] = -1.0
            first.send(1, Message(tag(), payload))  # must not land on what is still being read
            sent += 1
            assert received.tag == tag(number)
            np.testing.assert_array_equal(received.payload, values(length, number))
        for _ in range(burst):
            second.recv(0, TIMEOUT_S)


def test_space_is_used_again() -> None:
    first, second = group(2)
    payload = values(10_000, 0)

    def exchange(times: int) -> None:
        for _ in range(times):
            for _ in range(5):
                first.send(1, Message(tag(), payload))
            for _ in range(5):
                second.recv(0, TIMEOUT_S)

    exchange(SEGMENT_SLOTS)
    used = arena_bytes_used(first)
    exchange(10 * SEGMENT_SLOTS)
    assert arena_bytes_used(first) == used


def test_a_full_arena_is_named_with_its_sizes() -> None:
    (transport,) = group(1, arena_bytes=1 << 20)
    with pytest.raises(TransportError, match=f"{1 << 22} bytes.*{1 << 20}"):
        transport.allocate(1 << 20, np.float32)
    assert transport.allocate(1000, np.float32).size == 1000  # it still works
    (whole,) = group(1)
    with pytest.raises(TransportError):
        whole.allocate(physical_bytes(), np.float32)


def test_what_is_no_number_is_refused() -> None:
    first, _ = group(2)
    with pytest.raises(TransportError):
        first.send(1, Message(tag(), np.array([None])))
    with pytest.raises(TransportError):
        first.send(1, Message(tag(), np.zeros(2, dtype="f4,f8,i2,i2")))


def test_a_rank_offers_its_core_while_it_looks_and_then_sleeps(
    sleepless: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    offers: list[int] = []
    monkeypatch.setattr(module.os, "sched_yield", lambda: offers.append(len(sleepless)))
    _, second = group(2)
    with pytest.raises(DeadlineExceeded):
        second.recv(0, 10 * LOOK_S)
    assert offers
    assert set(offers) == {0}  # none after the first sleep
    assert sleepless


def test_it_looks_no_longer_than_it_may_wait(
    sleepless: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", TIMEOUT_S)
    _, second = group(2)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        second.recv(0, 0.01)
    assert time.monotonic() - start < TIMEOUT_S / 2
    assert not sleepless


def test_a_thread_beside_the_main_one_sleeps_at_once(
    sleepless: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "sched_yield", lambda: pytest.fail("it looked"))
    _, second = group(2)
    with ThreadPoolExecutor(1) as pool, pytest.raises(DeadlineExceeded):
        pool.submit(second.recv, 0, 0.01).result(TIMEOUT_S)
    assert sleepless


@pytest.mark.parametrize("sleeps", [True, False])
def test_no_wakeup_is_lost(sleeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of hand-overs, each of which would otherwise wait for the end of a long sleep."""
    monkeypatch.setattr(module.kernel, "MAX_SLEEP_S", TIMEOUT_S)
    monkeypatch.setattr(module, "LOOK_S", 0.0 if sleeps else LOOK_S)
    first, second = group(2)

    def answer() -> None:
        for index in range(2000):
            assert second.recv(0, TIMEOUT_S).tag.round == index
            second.send(0, Message(tag(index, 1), b""))

    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(answer)
        for index in range(2000):
            first.send(1, Message(tag(index), b""))
            assert first.recv(1, TIMEOUT_S).tag.round == index
        answers.result(TIMEOUT_S)


@pytest.mark.parametrize("moment", ["fence", "wait_while"])
def test_a_message_sent_while_the_reader_falls_asleep_is_seen(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent after the reader's flag is up, or after it looked for the last time."""
    monkeypatch.setattr(module.kernel, "MAX_SLEEP_S", 2 * TIMEOUT_S)
    first, second = group(2)
    real = getattr(module.kernel, moment)

    def send_first(*args: Any) -> Any:
        first.send(1, Message(tag(), b"in between"))
        return real(*args)

    monkeypatch.setattr(module.kernel, moment, send_first)
    start = time.monotonic()
    assert second.recv(0, 2 * TIMEOUT_S).payload == b"in between"
    assert time.monotonic() - start < TIMEOUT_S


def test_a_message_wakes_a_sleeper() -> None:
    first, second = group(2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.recv, 0, TIMEOUT_S)
        while not second._arena.words[second._own_flag]:
            os.sched_yield()
        first.send(1, Message(tag(), b"wake up"))
        assert waiting.result(TIMEOUT_S).payload == b"wake up"
    assert second._arena.words[second._own_flag] == 0


def test_a_closed_group_leaves_no_descriptor() -> None:
    gc.collect()
    before = descriptors()
    transports = group(4)
    buffer = transports[0].allocate(100, np.float32)
    transports[0].send(1, Message(tag(), buffer))
    received = transports[1].recv(0, TIMEOUT_S)
    for transport in transports:
        transport.close()
    assert received.payload.tolist() == [0.0] * 100  # memory lives as long as an array on it
    del transports, transport, buffer, received
    gc.collect()
    assert descriptors() <= before


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_endpoints_travel_to_processes_however_they_start(method: str) -> None:
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context = process_context([], 1)
    endpoints = create_endpoints(context, 2)
    receiver, sender = context.Pipe(duplex=False)
    from dmlf.conformance import programs

    process = context.Process(target=programs.echo_once, args=(endpoints[1], sender))
    process.start()
    try:
        transport = endpoints[0].connect()
        buffer = transport.allocate(1000, np.float32)
        buffer[...] = values(1000, 4)
        transport.send(1, Message(tag(), buffer))
        np.testing.assert_array_equal(transport.recv(1, TIMEOUT_S).payload, values(1000, 4) * 2)
        assert receiver.poll(TIMEOUT_S)
        assert receiver.recv() == "done"
    finally:
        process.join(TIMEOUT_S)
        process.kill()
        receiver.close()
        sender.close()


def killed(endpoints: list[object]) -> None:
    arguments = [(endpoint, 1) for endpoint in endpoints]
    with pytest.raises(PeerLost):
        run_ranks(process_context([], 1), f"{PROGRAMS}:killed_while_sending", arguments)


def finished(endpoints: list[object]) -> None:
    run_ranks(process_context([], 1), f"{PROGRAMS}:late_reader", [(e, 3) for e in endpoints])


@pytest.mark.parametrize("run", [finished, killed])
def test_nothing_is_left_whatever_ends_the_ranks(run: Callable[[list[object]], None]) -> None:
    gc.collect()
    before, segments = descriptors(), shared_memory()
    endpoints = create_endpoints(SPAWN, 3)
    run(list(endpoints))
    del endpoints
    gc.collect()
    assert descriptors() <= before
    assert shared_memory() <= segments
    assert threading.active_count() < 20
