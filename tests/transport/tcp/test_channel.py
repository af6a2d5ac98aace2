"""Channels over real sockets: authenticated, capped, with deadlines."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dmlf.errors import (
    AddressUnavailable,
    AuthenticationError,
    ChecksumMismatch,
    ConfigError,
    DmlfError,
    FrameError,
    NoAnswer,
    PeerLost,
)
from dmlf.transport.tcp import Acceptor, Channel, Tls, channel, dial, greeting, listen
from dmlf.transport.tcp.auth import HELLO_BYTES, Handshake, Identity, Role
from dmlf.transport.tcp.channel import MAX_OBJECT_BYTES
from dmlf.transport.tcp.frames import checksum, encode_control
from dmlf.transport.tcp.lobby import MAX_WAITING
from tests.transport.tcp import certificates, hostile

KEY = b"0123456789abcdef"
TIMEOUT_S = 20.0


class Server:
    """An acceptor that is served by a thread."""

    def __init__(self, key: bytes = KEY, purpose: str = "control", tls: Tls | None = None) -> None:
        listener = listen()
        self.address = listener.address
        self.acceptor = Acceptor(listener, key, purpose, tls)
        self.channels: list[Channel] = []
        self._ended = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended:
            self.channels += self.acceptor.accept(0.01)

    def channel(self, number: int = 0) -> Channel:
        hostile.until(lambda: len(self.channels) > number, lambda: self._thread.join(0.001))
        return self.channels[number]

    def refusals(self, number: int) -> Any:
        """The last refusal, once there are `number`."""
        hostile.until(lambda: self.acceptor.num_refused >= number, lambda: self._thread.join(0.001))
        return self.acceptor.last_refusal

    def close(self) -> None:
        self._ended = True
        self._thread.join()
        self.acceptor.close()
        for served in self.channels:
            served.close()


@contextmanager
def serving(*arguments: Any) -> Iterator[Server]:
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def dialed(server: Server, key: bytes = KEY, tls: Tls | None = None) -> Iterator[Channel]:
    client = dial(server.address, key, "control", tls, TIMEOUT_S)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    with serving() as server, dialed(server) as client:
        yield client, server.channel()


Pair = tuple[Channel, Channel]
OBJECTS: list[dict[str, Any]] = [
    {},
    {"rank": 3, "ready": True, "loss": 0.25, "none": None},
    {"nested": {"list": [1, [2, {"x": "\u00e4\u2028"}]]}},
    {"long": "ab" * 300_000},
]


def test_objects_go_both_ways(pair: Pair) -> None:
    client, server = pair
    for value in OBJECTS:
        client.send(value, TIMEOUT_S)
        assert server.recv(TIMEOUT_S) == value
        server.send({"back": value}, TIMEOUT_S)
        assert client.recv(TIMEOUT_S) == {"back": value}


def test_select_tells_of_each_object(pair: Pair) -> None:
    """`recv` never reads beyond one frame, so no object hides behind another."""
    client, server = pair
    for index in range(5):
        client.send({"index": index}, TIMEOUT_S)
    for index in range(5):
        assert select.select([server], [], [], TIMEOUT_S)[0] == [server]
        assert not server.pending
        assert server.recv(TIMEOUT_S) == {"index": index}
    assert select.select([server], [], [], 0)[0] == []


def test_many_clients_are_served_and_hear_what_is_theirs() -> None:
    with serving() as server, ExitStack() as stack:
        clients = [stack.enter_context(dialed(server)) for _ in range(20)]
        for index, client in enumerate(clients):
            client.send({"index": index}, TIMEOUT_S)
        for index in range(20):
            served = server.channel(index)
            served.send(served.recv(TIMEOUT_S), TIMEOUT_S)
        for index, client in enumerate(clients):
            assert client.recv(TIMEOUT_S) == {"index": index}


def test_silence_ends_at_the_deadline_and_the_channel_works_on(pair: Pair) -> None:
    client, server = pair
    with pytest.raises(NoAnswer) as caught:
        server.recv(0.02)
    assert (caught.value.peer, caught.value.timeout_s) == (server.peer, 0.02)
    client.send({"late": 1}, TIMEOUT_S)
    assert server.recv(TIMEOUT_S) == {"late": 1}


def test_a_reader_that_does_not_read_ends_a_send(pair: Pair) -> None:
    client, _ = pair

    def send_much() -> None:
        for _ in range(1000):
            client.send({"x": "y" * 500_000}, 0.05)

    with pytest.raises(NoAnswer):
        send_much()


def test_the_other_end_is_gone(pair: Pair) -> None:
    client, server = pair
    server.close()
    with pytest.raises(PeerLost):
        client.recv(TIMEOUT_S)
    with pytest.raises(PeerLost):
        client.send({}, TIMEOUT_S)


def test_an_object_over_the_cap_is_not_sent(pair: Pair) -> None:
    client, server = pair
    with pytest.raises(FrameError) as caught:
        client.send({"x": "y" * MAX_OBJECT_BYTES}, TIMEOUT_S)
    assert caught.value.field == "length"
    client.send({"small": 1}, TIMEOUT_S)
    assert server.recv(TIMEOUT_S) == {"small": 1}
    with pytest.raises(ValueError, match="JSON"):
        client.send({"x": float("nan")}, TIMEOUT_S)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"3",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1',
        b'{"a": 1} {}',
        b'{"\xff": 1}',
        b"[" * 100_000,
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_not_a_json_object_is_refused(pair: Pair, content: bytes) -> None:
    client, server = pair
    client._link.send(encode_control(content, client._rules), memoryview(content), stable=True)
    with pytest.raises(FrameError) as caught:
        server.recv(TIMEOUT_S)
    assert caught.value.field == "payload"


@pytest.mark.parametrize("data", [hostile.HTTP, hostile.TLS_HELLO, b"\xff" * 200])
def test_foreign_bytes_after_authentication_end_the_channel(pair: Pair, data: bytes) -> None:
    client, server = pair
    client._connection.send(data)
    with pytest.raises(ChecksumMismatch):
        server.recv(TIMEOUT_S)
    assert server._link.parser.memory_bytes == 0
    with pytest.raises(PeerLost):
        client.recv(TIMEOUT_S)


@pytest.mark.parametrize("length", [MAX_OBJECT_BYTES + 1, 2**32 - 1, 2**63])
def test_a_length_over_the_cap_is_refused_before_memory_is_taken(pair: Pair, length: int) -> None:
    client, server = pair
    header = bytearray(encode_control(b"", client._rules))
    header[40:48] = length.to_bytes(8, "little")
    header[56:64] = checksum(bytes(header[:56]), client._rules.seed).to_bytes(8, "little")
    client._connection.send(header)
    with pytest.raises(FrameError) as caught:
        server.recv(TIMEOUT_S)
    assert (caught.value.field, caught.value.value) == ("length", length)
    assert server._link.parser.memory_bytes == 0


def test_a_wrong_key_is_refused_on_both_sides_at_once() -> None:
    with serving() as server:
        start = time.monotonic()
        with pytest.raises(AuthenticationError, match="another key"):
            dial(server.address, b"another key 0123", "control", None, TIMEOUT_S)
        assert isinstance(server.refusals(1), AuthenticationError)
        assert time.monotonic() - start < 5.0
        with dialed(server):  # others are let in as before
            server.channel()


def test_another_purpose_is_refused_on_both_sides() -> None:
    with serving(KEY, "elsewhere") as server:
        with pytest.raises(AuthenticationError, match="elsewhere"):
            dial(server.address, KEY, "control", None, TIMEOUT_S)
        assert "control" in str(server.refusals(1))


@pytest.mark.parametrize(
    "data",
    [
        hostile.HTTP,
        hostile.TLS_HELLO,
        bytes(HELLO_BYTES),
        b"\xff" * 100_000,
        (2**32 - 1).to_bytes(4, "little") * 20,
        (2**63).to_bytes(8, "little") * 10,
    ],
    ids=["http", "tls", "zeros", "ones", "2^32-1", "2^63"],
)
def test_who_speaks_something_else_is_hung_up_on(data: bytes) -> None:
    with serving() as server:
        with hostile.connect(server.address, data) as connection:
            assert hostile.is_hung_up(connection)
        assert isinstance(server.refusals(1), AuthenticationError)
        with dialed(server):
            server.channel()


def test_a_recorded_handshake_does_not_open_a_second_channel() -> None:
    """Replay what a true client sent: the acceptor's nonce is another one."""
    with serving() as server:
        recorded = []
        client = Handshake(Role.INITIATOR, KEY, Identity("control"), {0}, "server", bytes(32))
        with hostile.connect(server.address) as connection:
            while client.session is None:
                if client.outgoing:
                    recorded.append(client.outgoing)
                    connection.sendall(client.outgoing)
                    client.outgoing = b""
                client.receive(connection.recv(client.wants, socket.MSG_WAITALL))
            server.channel()
        with hostile.connect(server.address, b"".join(recorded)) as connection:
            assert len(connection.recv(HELLO_BYTES + 32, socket.MSG_WAITALL)) == HELLO_BYTES + 32
            assert hostile.is_hung_up(connection)
        assert "another key" in str(server.refusals(1))


def test_a_client_is_not_fooled_by_its_own_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reflect() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(connection.recv(HELLO_BYTES, socket.MSG_WAITALL) + bytes(32))
                assert hostile.is_hung_up(connection)

        thread = threading.Thread(target=reflect)
        thread.start()
        with pytest.raises(AuthenticationError, match="sent back"):
            dial(listening.getsockname(), KEY, "control", None, TIMEOUT_S)
        thread.join()


@pytest.mark.parametrize("sent", [0, 1, HELLO_BYTES - 1, HELLO_BYTES])
def test_who_stays_silent_is_hung_up_on(sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "AUTHENTICATION_S", 0.05)
    hello = Handshake(Role.INITIATOR, KEY, Identity("control"), {0}, "x", bytes(32)).outgoing
    with serving() as server, hostile.connect(server.address, hello[:sent]) as connection:
        assert "too long" in str(server.refusals(1))
        while connection.recv(1000):
            pass


def test_a_silent_server_is_an_error_of_authentication(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "AUTHENTICATION_S", 0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        pytest.raises(AuthenticationError, match="too long"),
    ):
        dial(listening.getsockname(), KEY, "control", None, TIMEOUT_S)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
    with pytest.raises(NoAnswer) as caught:
        dial(address, KEY, "control", None, 0.05)
    assert caught.value.timeout_s == 0.05


def test_a_crowd_of_idle_connections_keeps_nobody_out() -> None:
    with serving() as server, ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(hostile.connect(server.address))
        start = time.monotonic()
        with dialed(server):
            server.channel()
        assert time.monotonic() - start < 5.0
        assert server.acceptor._lobby.num_waiting <= MAX_WAITING
        assert server.refusals(1000 - MAX_WAITING) is not None


def test_a_silent_crowd_does_not_displace_who_has_said_who_it_is() -> None:
    client = Handshake(Role.INITIATOR, KEY, Identity("control"), {0}, "server", bytes(32))
    with serving() as server, ExitStack() as stack:
        connection = stack.enter_context(hostile.connect(server.address, client.outgoing))
        client.receive(connection.recv(HELLO_BYTES, socket.MSG_WAITALL))
        client.receive(connection.recv(client.wants, socket.MSG_WAITALL))
        for _ in range(2 * MAX_WAITING):
            stack.enter_context(hostile.connect(server.address))
        server.refusals(MAX_WAITING)
        connection.sendall(client.outgoing)
        client.receive(connection.recv(client.wants, socket.MSG_WAITALL))
        assert client.session is not None
        server.channel()


def test_resets_during_a_handshake_are_counted() -> None:
    with serving() as server:
        for sent in (0, 1, HELLO_BYTES):
            hostile.reset(hostile.connect(server.address, bytes(sent)))
        assert isinstance(server.refusals(3), AuthenticationError)


def test_a_port_in_use_is_named() -> None:
    first = listen()
    host, port = first.address
    with pytest.raises(AddressUnavailable) as caught:
        listen(host, port)
    assert (caught.value.host, caught.value.port) == (host, port)
    first.close()
    listen(host, port).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_other_hosts_are_let_in_with_a_key_only(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        listen(host)
    assert caught.value.key == "host"
    with pytest.raises(ConfigError):
        listen(host, 0, b"short")
    listen(host, 0, KEY).close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tls]:
    folder = tmp_path_factory.mktemp("certificates")
    ours, foreign = (certificates.authority(folder, name) for name in ("ours", "foreign"))
    known = certificates.member(folder, "known", ours)
    stranger = certificates.member(folder, "stranger", foreign)
    return {
        "known": known,
        "unknown to the server": Tls(stranger.certificate, stranger.key, known.authority),
        "unknown to the client": Tls(known.certificate, known.key, stranger.authority),
    }


def test_objects_go_through_tls(files: dict[str, Tls]) -> None:
    with (
        serving(KEY, "control", files["known"]) as server,
        dialed(server, KEY, files["known"]) as client,
    ):
        assert client._connection.version() == "TLSv1.3"  # type: ignore[attr-defined]
        for value in OBJECTS:
            client.send(value, TIMEOUT_S)
            assert server.channel().recv(TIMEOUT_S) == value
        for index in range(3):
            client.send({"index": index}, TIMEOUT_S)
        served = server.channel()
        for index in range(3):
            assert served.pending or select.select([served], [], [], TIMEOUT_S)[0]
            assert served.recv(TIMEOUT_S) == {"index": index}


@pytest.mark.parametrize("who", ["unknown to the server", "unknown to the client"])
def test_another_authority_is_refused(files: dict[str, Tls], who: str) -> None:
    with serving(KEY, "control", files["known"]) as server:
        with pytest.raises(AuthenticationError):
            dial(server.address, KEY, "control", files[who], TIMEOUT_S)
        assert isinstance(server.refusals(1), AuthenticationError)


def test_tls_does_not_replace_the_key(files: dict[str, Tls]) -> None:
    with (
        serving(KEY, "control", files["known"]) as server,
        pytest.raises(AuthenticationError, match="another key"),
    ):
        dial(server.address, KEY[::-1], "control", files["known"], TIMEOUT_S)


def test_with_tls_on_one_side_only_nobody_gets_in(files: dict[str, Tls]) -> None:
    with serving(KEY, "control", files["known"]) as server, pytest.raises(DmlfError):
        dial(server.address, KEY, "control", None, 0.2)
    with serving() as server, pytest.raises(DmlfError):
        dial(server.address, KEY, "control", files["known"], 0.2)


def test_unusable_files_are_named(files: dict[str, Tls], tmp_path: Path) -> None:
    known = files["known"]
    for broken in (
        Tls(str(tmp_path / "absent.pem"), known.key, known.authority),
        Tls(known.certificate, files["unknown to the server"].key, known.authority),
        Tls(known.certificate, known.key, known.key),
    ):
        with pytest.raises(ConfigError) as caught:
            dial(("127.0.0.1", 1), KEY, "control", broken, 0.1)
        assert caught.value.key == "tls"
