"""Names that stand for several addresses, and hosts that vanish."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.pool
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dmlf.conformance.groups import close_all, connect_all
from dmlf.errors import NoAnswer
from dmlf.protocol import Message, Phase, Tag
from dmlf.transport.tcp import Acceptor, TcpEndpoint, create_endpoints, dial, greeting, listen
from dmlf.transport.tcp.sockets import start_connecting, tune

KEY = b"0123456789abcdef"
TIMEOUT_S = 20.0
NAME = "two-addresses"


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """NAME stands for an address where nobody listens, and for one where somebody does."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> list[Any]:
        if host != NAME:
            return resolve(host, *rest, **options)
        hosts = ("127.0.0.2", "127.0.0.1")
        return [found for host in hosts for found in resolve(host, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("two_addresses")
def test_each_attempt_takes_the_next_address() -> None:
    for attempt, host in enumerate(["127.0.0.2", "127.0.0.1", "127.0.0.2"]):
        connecting, target = start_connecting((NAME, 9), attempt)
        connecting.close()
        assert target == (host, 9)


@pytest.mark.usefixtures("two_addresses")
def test_a_channel_is_opened_to_the_address_where_somebody_listens() -> None:
    acceptor = Acceptor(listen(), KEY, "control")
    _, port = acceptor._lobby._listening.getsockname()
    channels = []
    with multiprocessing.pool.ThreadPool(1) as pool:
        dialled = pool.apply_async(dial, ((NAME, port), KEY, "control", None, TIMEOUT_S))
        deadline = time.monotonic() + TIMEOUT_S
        while not channels and time.monotonic() < deadline:
            channels += acceptor.accept(0.05)
        channels.append(dialled.get(TIMEOUT_S))
    acceptor.close()
    for channel in channels:
        channel.close()


@pytest.mark.usefixtures("two_addresses")
def test_ranks_are_reached_at_the_address_where_they_listen() -> None:
    first, second = create_endpoints(multiprocessing.get_context("spawn"), 2)
    addresses = [(NAME, first.addresses[0][1]), first.addresses[1]]
    transports = connect_all(
        [
            replace(endpoint, addresses=addresses, connect_timeout_s=TIMEOUT_S)
            for endpoint in (first, second)
        ]
    )
    transports[1].send(0, Message(Tag(0, 0, 0, Phase.PUSH, 0, 1), b"found"))
    assert transports[0].recv(1, TIMEOUT_S).payload == b"found"
    close_all(transports)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.2 that neither answers nor refuses: its queue is full."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.2", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@pytest.mark.usefixtures("two_addresses")
def test_an_address_that_does_not_answer_is_left_for_the_next(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greeting, "ANSWER_S", 0.2)
    listeners = [listen("127.0.0.1", silent_port), listen()]
    addresses = [(NAME, silent_port), listeners[1].address]
    transports = connect_all(
        [
            TcpEndpoint(rank, listener, addresses, KEY, connect_timeout_s=TIMEOUT_S)
            for rank, listener in enumerate(listeners)
        ]
    )
    transports[1].send(0, Message(Tag(0, 0, 0, Phase.PUSH, 0, 1), b"found"))
    assert transports[0].recv(1, TIMEOUT_S).payload == b"found"
    close_all(transports)


@pytest.mark.usefixtures("two_addresses")
def test_where_nobody_listens_at_any_address_there_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(NoAnswer):
        dial((NAME, port), KEY, "control", timeout_s=0.3)


def test_the_kernel_asks_a_silent_host_within_a_minute() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connection,
    ):
        tune(connection)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, count = (
            connection.getsockopt(socket.IPPROTO_TCP, option) for option in options
        )
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert idle + interval * count <= 60
