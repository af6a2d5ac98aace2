"""Connections that do not behave."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

from dmlf.transport.tcp.sockets import Address

HTTP = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(192))
WAIT_S = 10.0


def connect(address: Address, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(address, timeout=WAIT_S)
    connection.sendall(data)
    return connection


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def is_hung_up(connection: socket.socket) -> bool:
    """Whether the other end closes the connection, without a word, before WAIT_S are over."""
    connection.settimeout(WAIT_S)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def until(condition: Callable[[], object], what: Callable[[], object]) -> None:
    """Do `what` until `condition`, for WAIT_S at most."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        what()
