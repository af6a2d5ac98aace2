"""Transport `process_group` in what is its own: torch's groups, its collective, its failures."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from dmlf.errors import DeadlineExceeded, PeerLost, TransportError
from dmlf.protocol import Message, Phase, Tag
from dmlf.runtime import process_context, run_ranks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch.distributed"
)
PROGRAMS = "dmlf.conformance.programs"
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
        list(pool.map(lambda rank, vector: rank.all_reduce(vector, maximum), ranks, vectors))
    for vector in vectors:
        np.testing.assert_array_equal(vector, expected)


def test_messages_and_the_engines_all_reduce_do_not_disturb_each_other(connect) -> None:
    first, second = connect(2)
    sent = np.arange(100_003, dtype=np.float32)
    ones = [np.ones(7, np.int64), np.full(7, 2, np.int64)]
    first.send(1, Message(TAG, sent))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank, vector: rank.all_reduce(vector), (first, second), ones))
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
    with pytest.raises(TransportError, match=r"ranks \[1, 2\] did not come within 0\.3 s"):
        endpoints[0].connect()


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
