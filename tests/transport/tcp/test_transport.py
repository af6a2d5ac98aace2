"""What only the transport `tcp` promises: a mesh that forms in spite of others, and typed ends."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmlf.conformance.groups import close_all, connect_all
from dmlf.errors import (
    AuthenticationError,
    ChecksumMismatch,
    ConfigError,
    DeadlineExceeded,
    DmlfError,
    FrameError,
    GenerationMismatch,
    PeerLost,
    RendezvousError,
    SchemaMismatch,
    SourceMismatch,
    TransportError,
)
from dmlf.protocol import Message, Phase, Tag
from dmlf.transport.tcp import TcpEndpoint, TcpTransport, create_endpoints, listen, mesh
from dmlf.transport.tcp import transport as module
from dmlf.transport.tcp.auth import Identity
from dmlf.transport.tcp.frames import (
    HEADER_BYTES,
    Kind,
    Rules,
    checksum,
    encode_data,
    payload_bytes,
)
from dmlf.transport.tcp.greeting import Credentials
from dmlf.transport.waiting import LOOK_S
from tests.transport.tcp import certificates, hostile

TIMEOUT_S = 30.0
SPAWN = multiprocessing.get_context("spawn")
LARGE = 12_000_000  # more elements than any socket buffers hold


def tag(src: int = 0, round_: int = 0) -> Tag:
    return Tag(3, 5, 2, Phase.PUSH, round_, src)


def values(length: int, seed: int = 1) -> Any:
    return (np.arange(length) * 3 + seed).astype(np.float32)


@contextmanager
def group(endpoints: Sequence[TcpEndpoint]) -> Iterator[list[TcpTransport]]:
    transports = connect_all(endpoints)
    try:
        yield transports
    finally:
        close_all(transports)


def outcomes(endpoints: Sequence[TcpEndpoint]) -> list[Any]:
    """What each rank's `connect` ends with; nothing stays open."""

    def connect(endpoint: TcpEndpoint) -> Any:
        try:
            return endpoint.connect()
        except DmlfError as error:
            return error

    with ThreadPoolExecutor(len(endpoints)) as pool:
        results = list(pool.map(connect, endpoints))
    close_all([result for result in results if isinstance(result, TcpTransport)])
    return results


class RawPeer:
    """Rank 0 of two, authenticated, whose bytes are written by hand."""

    def __init__(self, connection: socket.socket, seed: int) -> None:
        self.connection = connection
        self.seed = seed
        connection.setblocking(True)

    def frame(self, payload: Any, dst: int = 1, at: Tag | None = None) -> bytes:
        rules = Rules(Kind.DATA, "rank 1", self.seed, 1 << 40, rank=0, peer_rank=1, group_size=2)
        content, dtype = payload_bytes(payload, "rank 1")
        return encode_data(at or tag(), dst, content, dtype, rules) + bytes(content)

    def sealed(self, header: bytearray) -> bytes:
        header[56:64] = checksum(bytes(header[:56]), self.seed).to_bytes(8, "little")
        return bytes(header)

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)


@pytest.fixture
def raw() -> Iterator[tuple[RawPeer, TcpTransport]]:
    """A raw rank 0, and the transport of rank 1."""
    first, second = create_endpoints(SPAWN, 2)
    credentials = Credentials(Identity("mesh", 0, 2), first.key)
    with ThreadPoolExecutor(1) as pool:
        connecting: Future[TcpTransport] = pool.submit(second.connect)
        connections = mesh.build(first.listener, list(first.addresses), credentials, TIMEOUT_S)
        transport = connecting.result()
    connection, session = connections[1]
    with connection:
        yield RawPeer(connection, session.send_seed), transport
        transport.close()


Raw = tuple[RawPeer, TcpTransport]


# How the mesh forms


def test_a_rank_that_does_not_come_is_named() -> None:
    endpoints = create_endpoints(SPAWN, 4)
    results = outcomes([replace(endpoints[rank], connect_timeout_s=0.3) for rank in (0, 2)])
    assert [type(result) for result in results] == [RendezvousError] * 2
    assert [(error.rank, error.missing) for error in results] == [(0, [1, 3]), (2, [1, 3])]


def test_waiting_for_a_rank_that_does_not_come_can_be_interrupted() -> None:
    first, _ = create_endpoints(SPAWN, 2)
    looks = []

    def interrupt() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        first.connect(interrupt)
    assert len(looks) == 3


def test_an_address_where_nobody_listens_is_tried_until_the_deadline() -> None:
    endpoints = create_endpoints(SPAWN, 2)
    endpoints[0].listener.close()
    (error,) = outcomes([replace(endpoints[1], connect_timeout_s=0.2)])
    assert isinstance(error, RendezvousError)
    assert error.missing == [0]
    assert "refused" in error.detail


def test_a_rank_with_another_key_does_not_get_in() -> None:
    first, second = create_endpoints(SPAWN, 2)
    start = time.monotonic()
    waiting, refused = outcomes(
        [replace(first, connect_timeout_s=0.5), replace(second, key=bytes(32))]
    )
    assert isinstance(refused, AuthenticationError)
    assert "rank 0" in refused.peer
    assert isinstance(waiting, RendezvousError)
    assert waiting.missing == [1]
    assert "rank 1" in waiting.detail
    assert time.monotonic() - start < 5.0


def test_ranks_that_disagree_about_the_group_name_one_another() -> None:
    first, second = create_endpoints(SPAWN, 2)
    three = replace(second, addresses=[*second.addresses, ("127.0.0.1", 9)])
    results = outcomes([first, three])
    assert [type(result) for result in results] == [SchemaMismatch] * 2
    assert "rank 1" in results[0].received
    assert "rank 0" in results[1].received
    first, second = create_endpoints(SPAWN, 2)
    results = outcomes([first, replace(second, generation=1)])
    assert [type(result) for result in results] == [GenerationMismatch] * 2


def test_a_group_forms_amid_a_hostile_crowd() -> None:
    """1,000 idle connections, and others that talk, at every rank's door."""
    endpoints = create_endpoints(SPAWN, 3)
    with ExitStack() as stack:
        for number in range(1000):
            address = endpoints[number % 3].listener.address
            data = (b"", b"", hostile.HTTP, hostile.TLS_HELLO, b"\0" * 72)[number % 5]
            stack.enter_context(hostile.connect(address, data))
        start = time.monotonic()
        with group(endpoints) as transports:
            assert time.monotonic() - start < 5.0
            transports[2].send(0, Message(tag(2), values(10)))
            np.testing.assert_array_equal(transports[0].recv(2, TIMEOUT_S).payload, values(10))


def test_nobody_can_connect_once_the_group_is_complete() -> None:
    endpoints = create_endpoints(SPAWN, 3)
    # The launcher holds the listening sockets too.
    held = [os.dup(endpoint.listener._descriptor) for endpoint in endpoints]
    with group(endpoints):
        for endpoint in endpoints:
            with pytest.raises(ConnectionRefusedError):
                hostile.connect(endpoint.listener.address)
    for descriptor in held:
        os.close(descriptor)
    with pytest.raises(TransportError):
        endpoints[0].connect()


def test_ranks_with_listeners_of_their_own() -> None:
    """As on several hosts: each rank is told all addresses, and starts when it likes."""
    key = os.urandom(16)
    listeners = [listen() for _ in range(3)]
    addresses = [("localhost", listener.address[1]) for listener in listeners]
    endpoints = [
        TcpEndpoint(rank, listener, addresses, key, generation=4)
        for rank, listener in enumerate(listeners)
    ]
    assert key.hex() not in repr(endpoints[0])
    assert repr(key) not in repr(endpoints[0])
    with group(endpoints) as transports:
        transports[0].send(2, Message(tag(), b"hello"))
        assert transports[2].recv(0, TIMEOUT_S).payload == b"hello"
    with pytest.raises(ConfigError):
        TcpEndpoint(3, listen(), addresses, key)
    with pytest.raises(ConfigError):
        TcpEndpoint(0, listen(), addresses, b"short")


def test_tensors_go_through_tls(tmp_path: Path) -> None:
    signer = certificates.authority(tmp_path, "signer")
    endpoints = [
        replace(endpoint, tls=certificates.member(tmp_path, f"rank{endpoint.rank}", signer))
        for endpoint in create_endpoints(SPAWN, 3)
    ]
    with group(endpoints) as transports, ThreadPoolExecutor(3) as pool:

        def exchange(rank: int) -> None:
            peers = [peer for peer in range(3) if peer != rank]
            for peer in peers:
                transports[rank].send(peer, Message(tag(rank), values(1_000_000, rank)))
            for peer in peers:
                payload = transports[rank].recv(peer, TIMEOUT_S).payload
                np.testing.assert_array_equal(payload, values(1_000_000, peer))

        list(pool.map(exchange, range(3)))


# What a link does with what comes


def test_a_trickle_does_not_extend_the_deadline(raw: Raw) -> None:
    """The bytes come one by one, always before the deadline: the whole frame counts."""
    peer, transport = raw
    data, timeout_s = peer.frame(values(1000)), 0.05
    stop = threading.Event()
    sent = [0]

    def trickle() -> None:
        while not stop.is_set() and sent[0] < len(data) - 1:
            peer.send(data[sent[0] : sent[0] + 1])
            sent[0] += 1
            stop.wait(1e-3)

    thread = threading.Thread(target=trickle)
    thread.start()
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        transport.recv(0, timeout_s)
    assert time.monotonic() - start < 1.0
    assert (caught.value.rank, caught.value.peer, caught.value.timeout_s) == (1, 0, timeout_s)
    stop.set()
    thread.join()
    assert 0 < sent[0] < len(data) - 1
    peer.send(data[sent[0] :])  # what has come is kept
    np.testing.assert_array_equal(transport.recv(0, TIMEOUT_S).payload, values(1000))


def test_a_deadline_counts_although_there_is_always_something_to_read(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, transport = raw
    monkeypatch.setattr(transport._links[0], "receive", lambda: (None, True))
    with pytest.raises(DeadlineExceeded):
        transport.recv(0, 0.01)


Damage = Callable[[RawPeer], bytes]


def length(number: int) -> Damage:
    def damage(peer: RawPeer) -> bytes:
        header = bytearray(peer.frame(b""))
        header[40:48] = number.to_bytes(8, "little")
        return peer.sealed(header)

    return damage


def flipped(place: int) -> Damage:
    def damage(peer: RawPeer) -> bytes:
        data = bytearray(peer.frame(values(100)))
        data[place] ^= 4
        return bytes(data)

    return damage


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda peer: hostile.HTTP, ChecksumMismatch),
        (lambda peer: hostile.TLS_HELLO, ChecksumMismatch),
        (lambda peer: np.random.default_rng(1).bytes(300), ChecksumMismatch),
        (flipped(0), ChecksumMismatch),
        (flipped(41), ChecksumMismatch),
        (flipped(HEADER_BYTES - 1), ChecksumMismatch),
        (flipped(HEADER_BYTES), ChecksumMismatch),
        (flipped(HEADER_BYTES + 399), ChecksumMismatch),
        (length(2**32 - 1), FrameError),
        (length(2**63), FrameError),
        (lambda peer: peer.frame(b"x", dst=0), FrameError),
        (lambda peer: peer.frame(b"x", dst=2), FrameError),
        (lambda peer: peer.frame(b"x", at=tag(src=1)), FrameError),
        (lambda peer: peer.frame(b"x", at=tag(src=2)), FrameError),
    ],
)
def test_damage_ends_the_link_with_a_typed_error(
    raw: Raw, damage: Damage, error: type[Exception]
) -> None:
    peer, transport = raw
    peer.send(peer.frame(b"good") + damage(peer))
    assert transport.recv(0, TIMEOUT_S).payload == b"good"
    with pytest.raises(error) as caught:
        transport.recv(0, TIMEOUT_S)
    assert transport._links[0].parser.memory_bytes <= 1000
    with pytest.raises(error) as again:
        transport.recv(0, 0.0)
    assert again.value is caught.value
    with pytest.raises(error):
        transport.send(0, Message(tag(1), b"x"))
    assert hostile.is_hung_up(peer.connection)


def test_a_frame_in_another_ranks_name_is_refused() -> None:
    with group(create_endpoints(SPAWN, 3)) as (first, second, _):
        first.send(1, Message(tag(src=2), b"x"))
        with pytest.raises(SourceMismatch):
            second.recv(0, TIMEOUT_S)


@pytest.mark.parametrize("sent", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 17])
@pytest.mark.parametrize("hang_up", [hostile.reset, socket.socket.close])
def test_an_end_within_a_frame_is_a_lost_peer(
    raw: Raw, sent: int, hang_up: Callable[[socket.socket], None]
) -> None:
    peer, transport = raw
    peer.send(peer.frame(values(100))[:sent])
    hang_up(peer.connection)
    start = time.monotonic()
    with pytest.raises(PeerLost, match="in the middle of a frame") as caught:
        transport.recv(0, TIMEOUT_S)
    assert caught.value.peer == "rank 0"
    assert time.monotonic() - start < 2.0


def test_an_end_between_frames_is_a_lost_peer_for_both_directions(raw: Raw) -> None:
    peer, transport = raw
    peer.send(peer.frame(b"last words"))
    hostile.reset(peer.connection)
    assert transport.recv(0, TIMEOUT_S).payload == b"last words"
    with pytest.raises(PeerLost):
        transport.recv(0, TIMEOUT_S)
    with pytest.raises(PeerLost):
        transport.send(0, Message(tag(1), b"x"))


def test_a_send_notices_that_the_peer_is_gone(raw: Raw) -> None:
    peer, transport = raw
    hostile.reset(peer.connection)

    def send_on() -> None:
        for _ in range(100):
            transport.send(0, Message(tag(1), values(100_000)))

    with pytest.raises(PeerLost):
        send_on()


def speak_until_killed(endpoint: TcpEndpoint) -> None:
    transport = endpoint.connect()
    while True:
        transport.send(0, Message(tag(1), values(1000)))
        transport.recv(0, TIMEOUT_S)


def test_a_killed_process_is_noticed_within_two_seconds() -> None:
    endpoints = create_endpoints(SPAWN, 2)
    process = SPAWN.Process(target=speak_until_killed, args=(endpoints[1],))
    process.start()
    transport = endpoints[0].connect()

    def converse() -> None:
        for number in range(1_000_000):
            transport.recv(1, TIMEOUT_S)
            if number == 20:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                killed.append(time.monotonic())
            transport.send(1, Message(tag(), values(1000)))

    killed: list[float] = []
    with pytest.raises(PeerLost) as caught:
        converse()
    assert time.monotonic() - killed[0] < 2.0
    assert caught.value.peer == "rank 1"
    process.join()
    transport.close()


# What waits to be sent


def test_a_registered_payload_waits_without_a_copy_and_others_with_one() -> None:
    with group(create_endpoints(SPAWN, 2)) as (first, second):
        registered = first.allocate(LARGE, np.float32)
        registered[...] = values(LARGE, 1)
        other = values(LARGE, 2)
        for payload, copied in ((registered, False), (registered[5:-5], False), (other, True)):
            first.send(1, Message(tag(), payload))
            with first._flusher.turn:
                (waiting,) = list(first._links[1].outgoing)[-1:]
            held = np.frombuffer(waiting, dtype=np.uint8)
            assert np.shares_memory(held, payload) != copied
        other[...] = -1.0
        for expected in (values(LARGE, 1), values(LARGE, 1)[5:-5], values(LARGE, 2)):
            np.testing.assert_array_equal(second.recv(0, TIMEOUT_S).payload, expected)


def test_what_is_left_is_sent_while_the_rank_does_something_else() -> None:
    with group(create_endpoints(SPAWN, 2)) as (first, second):
        first.send(1, Message(tag(), values(LARGE)))
        assert first._links[1].outgoing
        received = second.recv(0, TIMEOUT_S)  # `first` is not called meanwhile
        np.testing.assert_array_equal(received.payload, values(LARGE))
    names = [thread.name for thread in threading.enumerate()]
    assert "tcp-flusher" not in names


def test_close_delivers_what_was_sent_although_much_was_not_read() -> None:
    first, second = connect_all(create_endpoints(SPAWN, 2))
    second.send(0, Message(tag(1), values(LARGE)))  # never read
    first.send(1, Message(tag(), values(LARGE)))
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(first.close)
        np.testing.assert_array_equal(second.recv(0, TIMEOUT_S).payload, values(LARGE))
        closing.result()
    close_all([second])


def test_close_gives_up_on_a_peer_that_does_not_read(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    _, transport = raw
    transport.send(0, Message(tag(1), values(LARGE)))
    with pytest.raises(DeadlineExceeded) as caught:
        transport.close()
    assert (caught.value.rank, caught.value.peer) == (1, 0)


def test_close_serves_all_peers_although_one_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits for the peer after it would be lost if they were served in their turn."""
    first, second, third = connect_all(create_endpoints(SPAWN, 3))
    for peer in (1, 2):
        first.send(peer, Message(tag(), values(LARGE)))
    monkeypatch.setattr(module, "CLOSE_S", 0.5)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(first.close)
        np.testing.assert_array_equal(third.recv(0, TIMEOUT_S).payload, values(LARGE))
        with pytest.raises(DeadlineExceeded) as caught:
            closing.result()
    assert (caught.value.rank, caught.value.peer) == (0, 1)
    close_all([second, third])


def test_receiving_takes_the_longest_payloads_memory_and_no_more() -> None:
    with group(create_endpoints(SPAWN, 2)) as (first, second):
        for count in (10, 1000, 7, 1000):
            first.send(1, Message(tag(), values(count)))
            assert second.recv(0, TIMEOUT_S).payload.size == count
        assert second._links[0].parser.memory_bytes == 4000


def test_a_payload_over_the_cap_is_not_sent_and_the_link_works_on() -> None:
    endpoints = [
        replace(endpoint, max_payload_bytes=100) for endpoint in create_endpoints(SPAWN, 2)
    ]
    with group(endpoints) as (first, second):
        with pytest.raises(FrameError):
            first.send(1, Message(tag(), bytes(101)))
        first.send(1, Message(tag(), bytes(100)))
        assert second.recv(0, TIMEOUT_S).payload == bytes(100)


def test_nothing_stays_open() -> None:
    def descriptors() -> int:
        gc.collect()  # what other tests left for the collector
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(3):
        with group(create_endpoints(SPAWN, 4)) as transports:
            transports[0].send(3, Message(tag(), values(10)))
            transports[3].recv(0, TIMEOUT_S)
        outcomes([replace(create_endpoints(SPAWN, 2)[0], connect_timeout_s=0.01)])
    assert descriptors() == before


def test_a_rank_offers_its_core_while_it_looks_and_then_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    sleep = TcpTransport._sleep
    monkeypatch.setattr(module.os, "sched_yield", lambda: seen.append("offers"))
    monkeypatch.setattr(TcpTransport, "_sleep", lambda *args: (seen.append("sleeps"), sleep(*args)))
    with group(create_endpoints(SPAWN, 2)) as (_, second), pytest.raises(DeadlineExceeded):
        second.recv(0, 10 * LOOK_S)
    offers = seen.count("offers")
    assert offers
    assert seen[:offers] == ["offers"] * offers
    assert seen[offers:]
