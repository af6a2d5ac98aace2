"""Ranks that meet at a key-value store: who gets which links, and what they are told if not."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmlf.conformance.groups import close_all
from dmlf.errors import (
    AuthenticationError,
    ConfigError,
    RendezvousError,
    SchemaMismatch,
    TransportError,
)
from dmlf.group import rendezvous
from dmlf.group.rendezvous import transport_over_store
from dmlf.protocol import Message, Phase, Tag
from dmlf.transport import Transport
from dmlf.transport.shm import ShmTransport, create_memory
from dmlf.transport.shm.handover import Counter, collect
from dmlf.transport.tcp import TcpTransport
from tests.group.stores import DictStore, meet

TIMEOUT_S = 30.0
KINDS = {"shm": ShmTransport, "tcp": TcpTransport}
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="its stores")


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Fail a test after which this process has more sockets or anonymous files than before."""
    before = descriptors()
    yield
    gc.collect()  # errors hold the frames that they came through
    assert descriptors() <= before


def descriptors() -> int:
    """How many sockets and anonymous files this process holds."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue
    return sum(name.startswith(("socket:", "/memfd:")) for name in names)


def exchange(found: list[Transport | Exception]) -> None:
    """Send from every rank to every other, look at what comes, and close."""
    transports = [each for each in found if not isinstance(each, Exception)]
    assert len(transports) == len(found), found
    size = len(transports)
    for src in range(size):
        for dst in range(size):
            if src != dst:
                payload = np.arange(5) + 100 * src + 10 * dst
                transports[src].send(dst, Message(Tag(0, 0, 0, Phase.PUSH, 0, src), payload))
    for dst in range(size):
        for src in range(size):
            if src != dst:
                message = transports[dst].recv(src, TIMEOUT_S)
                np.testing.assert_array_equal(message.payload, np.arange(5) + 100 * src + 10 * dst)
                del message
    close_all(transports)


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize(("asked", "kind"), [(None, "shm"), ("shm", "shm"), ("tcp", "tcp")])
def test_every_rank_gets_links_to_all(world_size: int, asked: str | None, kind: str) -> None:
    found = meet(DictStore(), world_size, transport=asked, timeout_s=TIMEOUT_S)
    assert [type(each) for each in found] == [KINDS[kind]] * world_size
    exchange(found)


def test_a_group_of_one_needs_no_store() -> None:
    transport_over_store(None, 0, 1).close()  # type: ignore[arg-type]


def test_ranks_of_different_hosts_talk_over_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["a", "b", "a"])
    monkeypatch.setattr(rendezvous, "host_identity", lambda: next(names))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    found = meet(DictStore(), 3, timeout_s=TIMEOUT_S)
    assert [type(each) for each in found] == [TcpTransport] * 3
    exchange(found)


def test_memory_is_not_promised_to_ranks_of_different_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = iter(["a", "b"])
    monkeypatch.setattr(rendezvous, "host_identity", lambda: next(names))
    for error in meet(DictStore(), 2, transport="shm", timeout_s=TIMEOUT_S):
        assert isinstance(error, ConfigError)
        assert error.key == "transport"


def test_a_group_leaves_no_secret_in_the_store() -> None:
    for transport in KINDS:
        store = DictStore()
        exchange(meet(store, 3, transport=transport, timeout_s=TIMEOUT_S))
        assert not any("token" in value for value in store.values.values())
        assert set(store.values) == {"dmlf/plan", *(f"dmlf/here/{rank}" for rank in range(3))}


def test_one_prefix_serves_one_group_after_the_other() -> None:
    store = DictStore()
    for transport in ("shm", "tcp", None, "shm"):
        exchange(meet(store, 3, transport=transport, timeout_s=TIMEOUT_S))


def test_groups_of_different_prefixes_meet_at_once() -> None:
    store = DictStore()

    def one(index: int) -> list[Transport | Exception]:
        transport = ("shm", "tcp")[index % 2]
        return meet(store, 3, transport=transport, timeout_s=TIMEOUT_S, prefix=f"group {index}")

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(one, range(4)):
            exchange(found)


@pytest.mark.parametrize("late", range(3))
@pytest.mark.parametrize("transport", KINDS)
def test_what_a_dead_generation_left_is_not_mistaken(late: int, transport: str) -> None:
    """Ranks of a killed group left their keys; one rank of the next group comes after a plan."""
    store = DictStore()
    store.delete_key = lambda _key: False  # type: ignore[method-assign]  # it died before it could
    exchange(meet(store, 4, transport="shm", timeout_s=TIMEOUT_S))  # also of another size
    others_wait = threading.Event()
    plan = store.values["dmlf/plan"]
    set_ = store.set

    def set_and_tell(key: str, value: str) -> None:
        set_(key, value)
        leads = json.loads(store.values["dmlf/plan"]) != json.loads(plan)
        if leads or (late == 0 and key.startswith("dmlf/here/")):
            others_wait.set()

    store.set = set_and_tell  # type: ignore[method-assign]

    def one(rank: int) -> Transport | Exception:
        if rank == late:
            assert others_wait.wait(TIMEOUT_S)
        return transport_over_store(store, rank, 3, transport=transport, timeout_s=TIMEOUT_S)

    with ThreadPoolExecutor(3) as pool:
        exchange(list(pool.map(one, range(3))))


@pytest.mark.parametrize("absent", range(3))
def test_missing_ranks_are_named_to_all_that_came(absent: int) -> None:
    store = DictStore()
    present = [rank for rank in range(3) if rank != absent]

    def one(rank: int) -> list[int]:
        with pytest.raises(RendezvousError) as caught:
            transport_over_store(store, rank, 3, timeout_s=0.3)
        return caught.value.missing

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(one, present)) == [[absent]] * 2


@pytest.mark.parametrize("stage", ["ready", "go"])
def test_a_rank_that_ends_halfway_is_noticed(stage: str) -> None:
    class Dying(DictStore):
        """Rank 1 dies when it would be ready, or when it could go."""

        def set(self, key: str, value: str) -> None:
            if stage in key and threading.current_thread() is dying:
                raise KeyboardInterrupt
            super().set(key, value)

        def get(self, key: str) -> bytes:
            if stage in key and threading.current_thread() is dying:
                raise KeyboardInterrupt
            return super().get(key)

    store = Dying()
    ended = []

    def die() -> None:
        try:
            transport_over_store(store, 1, 2, timeout_s=TIMEOUT_S)
        except KeyboardInterrupt:
            ended.append(1)

    dying = threading.Thread(target=die)
    dying.start()
    with pytest.raises(RendezvousError) as caught:
        transport_over_store(store, 0, 2, timeout_s=1.0)
    assert caught.value.missing == [1]
    dying.join(TIMEOUT_S)
    assert ended == [1]


@pytest.mark.parametrize(
    "told",
    [
        [{"world_size": 3}, {"world_size": 4}, {"world_size": 3}],
        [{"transport": "shm"}, {"transport": "tcp"}, {"transport": "shm"}],
        [{"transport": None}, {"transport": None}, {"transport": "tcp"}],
    ],
)
def test_ranks_that_were_told_different_things_all_learn_it(told: list[dict[str, Any]]) -> None:
    store = DictStore()

    def one(rank: int) -> str:
        options = {"world_size": 3, "timeout_s": TIMEOUT_S, **told[rank]}
        with pytest.raises(SchemaMismatch) as caught:
            transport_over_store(store, rank, **options)
        return str(caught.value)

    begun = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(one, range(3))
    assert others == [first, first]
    assert time.monotonic() - begun < TIMEOUT_S  # found, not waited for


def test_an_address_that_others_cannot_reach_is_an_error_on_all_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = iter("ab")
    addresses = iter(["127.0.0.1", None])
    monkeypatch.setattr(rendezvous, "host_identity", lambda: next(names))
    monkeypatch.setattr(rendezvous, "address_towards", lambda _host: next(addresses))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for error in meet(DictStore(), 2, timeout_s=TIMEOUT_S):
        assert isinstance(error, ConfigError)
        assert (error.key, error.value) == ("MASTER_ADDR", "127.0.0.1")


def test_a_store_that_breaks_is_an_error_of_the_rendezvous() -> None:
    class Broken(DictStore):
        def check(self, keys: list[str]) -> bool:
            raise RuntimeError("connection reset\nby its server")

    for error in meet(Broken(), 2, timeout_s=TIMEOUT_S):
        assert isinstance(error, RendezvousError)
        assert "connection reset;" not in str(error)
        assert "connection reset)" in str(error)


@pytest.mark.parametrize("found", [b"{", b'{"a": NaN}', b"[" * 100_000, b"\xff", b"[1]", b"null"])
def test_what_dmlf_did_not_write_is_named(found: bytes) -> None:
    class Foreign(DictStore):
        def get(self, key: str) -> bytes:
            return found

    reader, waiting = meet(Foreign(), 2, timeout_s=0.5)
    assert type(reader) is TransportError
    assert "here/1 is not dmlf's" in str(reader)
    assert isinstance(waiting, RendezvousError)


def test_an_unknown_transport_is_refused_at_once() -> None:
    with pytest.raises(ConfigError):
        transport_over_store(DictStore(), 0, 2, transport="queue")


@needs_torch
@pytest.mark.parametrize("kind", ["tcp", "file", "hash", "prefix"])
@pytest.mark.parametrize("transport", KINDS)
def test_stores_of_torch_will_do(tmp_path: Path, kind: str, transport: str) -> None:
    import torch.distributed as dist

    master = dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20)
    )
    shared = dist.HashStore()

    def of(rank: int) -> Any:
        if kind == "file":
            return dist.FileStore(str(tmp_path / "store"), 3)
        if kind == "hash":
            return shared
        client = dist.TCPStore("127.0.0.1", master.port, is_master=False)
        return client if kind == "tcp" else dist.PrefixStore("a", dist.PrefixStore("b", client))

    exchange(meet(of, 3, transport=transport, timeout_s=TIMEOUT_S))


# The handover of memory


def test_who_does_not_belong_gets_no_memory() -> None:
    memory, counter = create_memory(2), Counter()
    served = threading.Thread(target=counter.serve, args=(memory, b"t" * 16, TIMEOUT_S))
    served.start()
    try:
        for token, rank in ((b"x" * 16, 1), (b"t" * 16, 0), (b"t" * 16, 2)):
            with pytest.raises((RendezvousError, TransportError)):
                collect(counter.name, token, rank, TIMEOUT_S)
        assert collect(counter.name, b"t" * 16, 1, TIMEOUT_S).group_size == 2
    finally:
        served.join(TIMEOUT_S)
        counter.close()
    assert not served.is_alive()


def test_memory_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter()
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(AuthenticationError):
        collect(counter.name, b"t" * 16, 1, TIMEOUT_S)
    counter.close()


def test_nobody_at_the_counter_is_an_error_that_names_rank_0() -> None:
    with pytest.raises(RendezvousError) as caught:
        collect("no such name", b"t" * 16, 1, 0.2)
    assert caught.value.missing == [0]


def test_a_counter_that_can_let_nobody_in_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter()
    failures = [ConnectionAbortedError(), OSError(errno.EMFILE, "Too many open files")]

    class Full:
        def settimeout(self, timeout_s: float) -> None:
            assert timeout_s <= TIMEOUT_S

        def accept(self) -> None:
            raise failures.pop(0)

    with contextlib.closing(counter), monkeypatch.context() as patched:
        patched.setattr(counter, "_socket", Full())
        with pytest.raises(RendezvousError, match="Too many open files") as caught:
            counter.serve(create_memory(3), b"t" * 16, TIMEOUT_S)
    assert (caught.value.rank, caught.value.missing) == (0, [1, 2])
    assert caught.value.timeout_s < TIMEOUT_S / 2  # not what it might have waited
