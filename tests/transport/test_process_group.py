"""Transport `process_group` in what is its own: torch's groups, its collective, its failures."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from dmlf.errors import DeadlineExceeded, NoAnswer, PeerLost, RendezvousError, TransportError
from dmlf.protocol import Message, Phase, Tag
from dmlf.runtime import process_context, run_ranks
from dmlf.runtime.launch import started_ranks
from tests.transport import group_programs

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch.distributed"
)
PROGRAMS = "dmlf.conformance.programs"
OWN = "tests.transport.group_programs"
TIMEOUT_S = 30.0
TAG = Tag(0, 1, 2, Phase.PUSH, 3, 0)


@pytest.fixture
def connect() -> Iterator[Callable[[int], list[object]]]:
    from dmlf.transport.process_group import create_endpoints

    opened = []

    def make(size: int) -> list[object]:
        endpoints = create_endpoints(multiprocessing.get_context("spawn"), size)
        with ThreadPoolExecutor(size) as pool:
            opened.extend(pool.map(lambda endpoint: endpoint.connect(), endpoints))
        return list(opened)

    yield make
    with ThreadPoolExecutor(max(1, len(opened))) as pool:
        list(pool.map(lambda transport: transport.close(), opened))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("maximum", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32])
def test_the_engines_all_reduce(connect, size: int, maximum: bool, dtype: type) -> None:
    ranks = connect(size)
    vectors = [((np.arange(1009) * (rank + 2)) % 71 - rank).astype(dtype) for rank in range(size)]
    expected = np.max(vectors, axis=0) if maximum else np.sum(vectors, axis=0)
    with ThreadPoolExecutor(size) as pool:
        list(
            pool.map(
                lambda rank, vector: rank.all_reduce(vector, TIMEOUT_S, maximum), ranks, vectors
            )
        )
    for vector in vectors:
        np.testing.assert_array_equal(vector, expected)


def test_messages_and_the_engines_all_reduce_do_not_disturb_each_other(connect) -> None:
    first, second = connect(2)
    sent = np.arange(100_003, dtype=np.float32)
    ones = [np.ones(7, np.int64), np.full(7, 2, np.int64)]
    first.send(1, Message(TAG, sent))
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(lambda rank, vector: rank.all_reduce(vector, TIMEOUT_S), (first, second), ones)
        )
    assert [vector.tolist() for vector in ones] == [[3] * 7] * 2
    np.testing.assert_array_equal(second.recv(0, TIMEOUT_S).payload, sent)


def test_a_closed_peer_is_named(connect) -> None:
    first, second, third = connect(3)
    first.send(1, Message(TAG, b"last words"))
    with ThreadPoolExecutor(3) as pool:
        closing = [pool.submit(first.close)]
        assert second.recv(0, TIMEOUT_S).payload == b"last words"
        for _ in range(2):  # and again, however often it is asked
            with pytest.raises(PeerLost) as caught:
                second.recv(0, TIMEOUT_S)
            assert caught.value.peer == "rank 0"
        with pytest.raises(DeadlineExceeded):
            second.recv(2, 0.01)  # other links go on
        closing += [pool.submit(second.close), pool.submit(third.close)]
        for closed in closing:
            closed.result(TIMEOUT_S)


def test_a_dtype_that_has_no_code_is_refused(connect) -> None:
    first, _ = connect(2)
    with pytest.raises(TransportError, match="datetime64"):
        first.send(1, Message(TAG, np.zeros(2, "M8[s]")))


def test_ranks_that_never_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dmlf.transport import process_group

    monkeypatch.setattr(process_group, "CONNECT_S", 0.3)
    endpoints = process_group.create_endpoints(multiprocessing.get_context("spawn"), 3)
    with pytest.raises(RendezvousError) as caught:
        endpoints[0].connect()
    assert (caught.value.rank, caught.value.missing, caught.value.timeout_s) == (0, [1, 2], 0.3)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lone_rank_of_a_promised_group_names_the_other(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    begun = time.monotonic()
    spawn = multiprocessing.get_context("spawn")  # has this environment, and a torch of its own
    with ProcessPoolExecutor(1, spawn) as pool:
        failure = pool.submit(group_programs.alone, rank, 2).result()
    assert time.monotonic() - begun < TIMEOUT_S
    assert isinstance(failure, RendezvousError)
    assert (failure.rank, failure.missing, failure.timeout_s) == (rank, [1 - rank], 1.0)


@pytest.mark.parametrize("moment", ["before", "while connecting"])
def test_rank_0_killed_before_all_are_connected_is_missed(moment: str) -> None:
    from dmlf.transport.process_group import create_endpoints

    context = process_context([], 1)
    arguments = [(endpoint, moment) for endpoint in create_endpoints(context, 3)]
    with started_ranks(context, f"{OWN}:rank_0_is_killed", arguments) as ranks:
        for rank in (1, 2):
            with pytest.raises(RendezvousError) as caught:
                ranks.result(rank)
            assert (caught.value.rank, caught.value.missing) == (rank, [0])
        with pytest.raises(PeerLost, match="SIGKILL"):
            ranks.result(0)


def test_a_stopped_rank_holds_nobody_longer_than_a_deadline() -> None:
    from dmlf.transport.process_group import create_endpoints

    context = process_context([], 1)
    arguments = [(endpoint, signal.SIGSTOP) for endpoint in create_endpoints(context, 3)]
    with started_ranks(context, f"{OWN}:one_gets_a_signal", arguments) as ranks:
        sent, received, reduced = ranks.result(0)
        _, _, closed = ranks.result(2)
    assert sent == f"returned {64 << 20}"
    assert isinstance(received, DeadlineExceeded)
    assert (received.rank, received.peer, received.timeout_s) == (0, 1, 0.5)
    assert isinstance(reduced, NoAnswer | PeerLost)  # rank 2, which has left, may be missed first
    assert isinstance(closed, DeadlineExceeded)
    assert (closed.rank, closed.peer) == (2, 1)


def test_the_engines_all_reduce_names_who_is_gone_or_may_be() -> None:
    from dmlf.transport.process_group import create_endpoints

    context = process_context([], 1)
    failures = {}
    for number in (signal.SIGKILL, signal.SIGSTOP):
        arguments = [(endpoint, number) for endpoint in create_endpoints(context, 2)]
        with started_ranks(context, f"{OWN}:one_gets_a_signal", arguments) as ranks:
            failures[number] = ranks.result(0)[-1]
    lost, silent = failures.values()
    assert isinstance(lost, PeerLost)
    assert lost.peer == "rank 1"
    assert isinstance(silent, NoAnswer)
    assert (silent.peer, silent.timeout_s) == ("one of rank 1", 0.5)


def test_an_abandoned_rank_receives_no_more(connect, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmlf.transport import process_group

    monkeypatch.setattr(process_group, "_GOODBYE_S", 0.05)
    first, second = connect(2)
    first.abandon()
    second.send(0, Message(TAG, b""))  # its receiver is still there, and takes this one
    receiver = first._receivers[1]
    receiver.join(TIMEOUT_S)
    assert not receiver.is_alive()  # and raised nothing, which would fail this test
    with pytest.raises(PeerLost):
        first.send(1, Message(TAG, b""))


def test_a_payload_in_registered_memory_is_not_copied(connect) -> None:
    first, second = connect(2)
    vector = first.allocate(100, np.float32)
    vector[...] = np.arange(100)
    other = np.arange(100, dtype=np.float32)
    parts = []
    monkey = first._group

    class Group:
        def send(self, tensors, *rest):
            parts.append(tensors[0].numpy())
            return monkey.send(tensors, *rest)

    first._group = Group()
    for payload in (vector, vector[10:20], other):
        first.send(1, Message(TAG, payload))
        np.testing.assert_array_equal(second.recv(0, TIMEOUT_S).payload, payload)
    first._group = monkey
    shared = [any(np.shares_memory(part, kept) for kept in (vector, other)) for part in parts[1::2]]
    assert shared == [True, True, False]


def test_a_killed_rank_ends_the_run_and_leaves_nothing() -> None:
    from dmlf.transport.process_group import create_endpoints

    def run_and_kill() -> None:
        context = process_context([], 1)
        arguments = [(endpoint, 1) for endpoint in create_endpoints(context, 3)]
        with pytest.raises(PeerLost) as caught:
            run_ranks(context, f"{PROGRAMS}:killed_while_sending", arguments)
        assert caught.value.peer == "rank 1"
        assert "SIGKILL" in caught.value.detail

    gc.collect()
    before = psutil.Process().num_fds()
    run_and_kill()
    gc.collect()
    assert psutil.Process().num_fds() <= before
