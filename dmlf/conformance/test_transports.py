"""The promises that every transport keeps: see `dmlf.transport.base.Transport`."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dmlf.conformance.driving import groups
from dmlf.conformance.groups import FAILED, close_all, group
from dmlf.errors import DeadlineExceeded, PeerLost
from dmlf.protocol import Message, Phase, Tag
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.launch import started_ranks
from dmlf.runtime.semaphores import named_semaphores
from dmlf.transport import TRANSPORTS, Transport

TIMEOUT_S = 30.0
LENGTHS = [0, 1, 2, 7, 1009, 300_000, 5_000_011]
PROGRAMS = "dmlf.conformance.programs"
Connect = Callable[[int], list[Transport]]


@pytest.fixture
def connect(link: str, request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a group of the given size; all its transports are closed at the end."""
    opened: list[Transport] = []

    def make(group_size: int) -> list[Transport]:
        opened.extend(group(link, group_size))
        return list(opened)

    yield make
    if request.node.stash.get(FAILED, False):  # to close would wait for what nobody reads any more
        for transport in opened:
            transport.abandon()
    else:
        close_all(opened)


def tag(src: int, round_: int = 0, phase: Phase = Phase.PUSH) -> Tag:
    return Tag(3, 5, 2, phase, round_, src)


def values(length: int, seed: int, dtype: Any = np.float32) -> Any:
    return (np.arange(length) * 3 + seed).astype(dtype)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_payload_and_tag_arrive_unchanged(connect: Connect, length: int, dtype: Any) -> None:
    first, second = connect(2)
    sent = values(length, 1, dtype)
    assert first.send(1, Message(tag(0), sent)) == sent.nbytes
    received = second.recv(0, TIMEOUT_S)
    assert received.tag == tag(0)
    assert isinstance(received.tag.phase, Phase)
    assert received.payload.dtype == dtype
    np.testing.assert_array_equal(received.payload, sent)


@pytest.mark.parametrize("payload", [b"", b"\x00", bytes(range(256)) * 5])
def test_bytes_arrive_as_bytes(connect: Connect, payload: bytes) -> None:
    first, second = connect(2)
    assert first.send(1, Message(tag(0), payload)) == len(payload)
    assert second.recv(0, TIMEOUT_S).payload == payload


def test_each_link_keeps_order(connect: Connect) -> None:
    first, second, third = connect(3)
    for index in range(50):
        first.send(2, Message(tag(0, index), values(index, 0)))
        second.send(2, Message(tag(1, index), values(index, 1)))
    for index in range(50):  # the links are read in another order than they were written
        assert third.recv(1, TIMEOUT_S).tag == tag(1, index)
    for index in range(50):
        assert third.recv(0, TIMEOUT_S).tag == tag(0, index)


def test_a_payload_may_be_changed_after_send(connect: Connect) -> None:
    first, second = connect(2)
    payload = values(200_000, 0)
    first.send(1, Message(tag(0), payload))
    payload[...] = -1.0
    np.testing.assert_array_equal(second.recv(0, TIMEOUT_S).payload, values(200_000, 0))


@pytest.mark.parametrize("length", [1, 1009, 300_000])
@pytest.mark.parametrize("registered", [False, True])
def test_payloads_of_several_ranks_can_be_read_together(
    connect: Connect, length: int, registered: bool
) -> None:
    """Also while these ranks send more, which nobody has read yet."""
    reader, *senders = connect(4)
    payloads = [
        sender.allocate(length, np.float32) if registered else values(length, 0)
        for sender in senders
    ]
    received = []
    for src, (sender, payload) in enumerate(zip(senders, payloads, strict=True), 1):
        payload[...] = values(length, src)
        sender.send(0, Message(tag(src), payload))
        received.append(reader.recv(src, TIMEOUT_S))
    if not registered:
        for src, (sender, payload) in enumerate(zip(senders, payloads, strict=True), 1):
            payload[...] = -1.0
            sender.send(0, Message(tag(src, 1), payload))
    for src, message in enumerate(received, 1):
        assert message.tag == tag(src)
        np.testing.assert_array_equal(message.payload, values(length, src))
    for src in range(1, 1 if registered else 4):
        assert reader.recv(src, TIMEOUT_S).payload.max() == -1.0


def test_a_slice_of_an_array_can_be_sent(connect: Connect) -> None:
    first, second = connect(2)
    first.send(1, Message(tag(0), values(100, 0)[10:20]))
    np.testing.assert_array_equal(second.recv(0, TIMEOUT_S).payload, values(100, 0)[10:20])


def test_silence_ends_at_the_deadline_and_names_the_peer(connect: Connect) -> None:
    first, second = connect(2)
    with pytest.raises(DeadlineExceeded) as caught:
        second.recv(0, 0.05)
    assert (caught.value.rank, caught.value.peer, caught.value.timeout_s) == (1, 0, 0.05)
    first.send(1, Message(tag(0), b"late"))  # the link still works
    assert second.recv(0, TIMEOUT_S).payload == b"late"


@pytest.mark.parametrize("group_size", range(1, 9))
def test_all_pairs_exchange_at_once(connect: Connect, group_size: int) -> None:
    transports = connect(group_size)

    def exchange(rank: int) -> None:
        peers = [peer for peer in range(group_size) if peer != rank]
        for peer in peers:  # everybody sends before anybody receives, more than a pipe holds
            transports[rank].send(peer, Message(tag(rank), values(50_000, 10 * rank + peer)))
        for peer in peers:
            received = transports[rank].recv(peer, TIMEOUT_S)
            assert received.tag == tag(peer)
            np.testing.assert_array_equal(received.payload, values(50_000, 10 * peer + rank))

    with ThreadPoolExecutor(group_size) as pool:
        list(pool.map(exchange, range(group_size)))


def test_buckets_in_flight_keep_apart(connect: Connect) -> None:
    """Several buckets go both ways at once, and are read while others are on their way."""
    transports = connect(3)
    lengths = [100_003, 1, 40_000, 0, 250_000]

    def bucket(index: int, src: int) -> Any:
        return values(lengths[index], 1000 * index + src)

    def exchange(rank: int) -> None:
        peers = [peer for peer in range(3) if peer != rank]
        registered = transports[rank].allocate(sum(lengths), np.float32)
        starts = np.cumsum([0, *lengths])
        for index in range(len(lengths)):
            part = registered[starts[index] : starts[index + 1]]
            part[...] = bucket(index, rank)
            for dst in peers:
                transports[rank].send(dst, Message(tag(rank)._replace(bucket=index), part))
            if index:  # one bucket behind what was sent
                check(rank, peers, index - 1)
        check(rank, peers, len(lengths) - 1)

    def check(rank: int, peers: list[int], index: int) -> None:
        for src in peers:
            received = transports[rank].recv(src, TIMEOUT_S)
            assert received.tag == tag(src)._replace(bucket=index)
            np.testing.assert_array_equal(received.payload, bucket(index, src))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(exchange, range(3)))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_peer_ends_the_run_and_nothing_is_left(transport: str, victim: int) -> None:
    """A rank is killed in the middle of a conversation, while the others wait for it."""
    context = process_context([], threads_per_rank=1)

    def kill_one() -> None:
        endpoints = TRANSPORTS[transport](context, 3)
        arguments = [(endpoint, victim) for endpoint in endpoints]
        with pytest.raises(PeerLost) as caught:
            run_ranks(context, f"{PROGRAMS}:killed_while_sending", arguments)
        assert caught.value.peer == f"rank {victim}"

    kill_one()  # starts the fork server, whose descriptors stay; processes are the fixture's part
    gc.collect()
    before, semaphores = descriptors(), named_semaphores(os.getpid())
    start = time.monotonic()
    kill_one()
    assert time.monotonic() - start < TIMEOUT_S / 2
    gc.collect()
    assert descriptors() <= before
    assert named_semaphores(os.getpid()) <= semaphores


def test_a_killed_launcher_takes_all_with_it(transport: str) -> None:
    """No process of its keeps its output open, and no semaphore of its is left in /dev/shm."""
    code = f"from {PROGRAMS} import launch_and_wait; launch_and_wait({transport!r})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        assert [launcher.stdout.readline() for _ in range(3)] == [b"ready\n"] * 3
        launcher.kill()
        launcher.communicate(timeout=TIMEOUT_S)  # until the last process has ended
    assert named_semaphores(launcher.pid) == set()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_sender_that_hangs_in_a_message_holds_nobody(
    transport: str, number: signal.Signals
) -> None:
    context = process_context([], threads_per_rank=1)
    endpoints = TRANSPORTS[transport](context, 2)
    arguments = [(endpoint, number) for endpoint in endpoints]
    with started_ranks(context, f"{PROGRAMS}:reads_from_one_that_hangs", arguments) as ranks:
        ranks.result(0)
        if number == signal.SIGSTOP:
            ranks.result(1)


@pytest.mark.parametrize("name", ["ring", "parameter_server-2", "tree"])
def test_a_late_reader_never_sees_overwritten_memory(transport: str, name: str) -> None:
    """Real processes, one of which reads everything late; every step's sum is checked bitwise."""
    ranks = groups([name.partition("-")[0]])[name]
    context = process_context([], threads_per_rank=1)
    endpoints = TRANSPORTS[transport](context, ranks.size(3))
    arguments = [(endpoint, name, 40) for endpoint in endpoints]
    results = run_ranks(context, f"{PROGRAMS}:train_with_a_late_reader", arguments)
    expected = [dict.fromkeys(ranks.held(rank, 3, 2), 40) for rank in range(ranks.size(3))]
    assert results == expected
