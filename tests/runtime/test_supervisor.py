"""What the supervisor hears of ranks when it ends them."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import threading
import time
from multiprocessing.connection import wait
from typing import Any

import pytest

from dmlf.errors import NoAnswer, RemoteError
from dmlf.runtime import process_context
from dmlf.runtime.events import Spawn, Start
from dmlf.runtime.inbox import Inbox
from dmlf.runtime.local import LocalMembers
from dmlf.runtime.member import FAILED, FIRED, JOINED, Line, StartOrder
from dmlf.runtime.supervisor import GONE, RestartPolicy, Said, Supervisor

TIMEOUT_S = 60.0


class Struck:
    """A program that says what strikes it, and hangs."""

    def __init__(self, server: int | None, argument: object) -> None:
        self.argument = argument

    def run(self, order: StartOrder, line: Line) -> None:
        """Tell, and wait for long."""
        line.fired(3)
        line.hold(TIMEOUT_S)


def test_last_words_of_a_process_are_read_when_it_is_ended() -> None:
    members = LocalMembers(process_context([], 1), f"{__name__}:Struck", None, lambda start: [None])
    members.spawn(Spawn(0, None, 0))
    try:
        assert JOINED in [said.kind for said in members.wait(TIMEOUT_S)]  # beside its first beat
        members.start(Start(0, 1, {0: 0}, True), {}, frozenset(), None)
        assert wait(members.sources()[:1], TIMEOUT_S)
    finally:
        ((member, kind, _, (number, _)),) = members.close(None)
    assert (member, kind, number) == (0, FIRED, 3)
    assert members.sources() == []


class StuckInTelling(Struck):
    """A program whose process hangs in the middle of a message."""

    def run(self, order: StartOrder, line: Line) -> None:
        """Say a part of something."""
        line.resumed(0, "the start")
        os.write(line._pipe.fileno(), struct.pack("!i", 1000) + b"x")
        threading.Event().wait(TIMEOUT_S)


def test_a_rank_that_hangs_in_the_middle_of_a_message_holds_up_nobody() -> None:
    members = LocalMembers(
        process_context([], 1), f"{__name__}:StuckInTelling", None, lambda start: [None]
    )
    limits = RestartPolicy(0).limits(1, 0, 1.0, TIMEOUT_S, spawns=True)
    supervisor = Supervisor(members, limits, lambda generation, mended: None)
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match="rank 0 did not answer within 1 s"):
        supervisor.run()
    assert time.monotonic() - begun < TIMEOUT_S / 2


class Stopped(Struck):
    """A program whose process stops as if by SIGSTOP, and takes no orders."""

    def run(self, order: StartOrder, line: Line) -> None:
        """Tell, and stop."""
        line.fired(3)
        os.kill(os.getpid(), signal.SIGSTOP)


def test_who_takes_no_orders_is_killed_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dmlf.runtime.local.ORDER_S", 0.2)
    members = LocalMembers(
        process_context([], 1), f"{__name__}:Stopped", None, lambda start: [None]
    )
    members.spawn(Spawn(0, None, 0))
    heard: list[Said] = []
    deadline = time.monotonic() + TIMEOUT_S
    try:
        members.start(Start(0, 1, {0: 0}, True), {}, frozenset(), None)
        while FIRED not in [said.kind for said in heard]:
            assert time.monotonic() < deadline
            heard += members.wait(TIMEOUT_S)
        members.order(0, b"x" * (1 << 20))  # more than its pipe holds
        while GONE not in [said.kind for said in heard]:
            assert time.monotonic() < deadline
            heard += members.wait(TIMEOUT_S)
    finally:
        members.close(None)
    assert heard[-1].value == "it took no order for 0.2 s and was killed"


def test_who_cannot_be_told_anything_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    members = LocalMembers(process_context([], 1), f"{__name__}:Struck", None, lambda start: [None])
    members.spawn(Spawn(0, None, 0))
    heard: list[Said] = []
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while JOINED not in [said.kind for said in heard]:
            assert time.monotonic() < deadline
            heard += members.wait(TIMEOUT_S)
        monkeypatch.setattr("dmlf.runtime.local.send_parcel", refuse)
        members.abort(0, 0)
        while GONE not in [said.kind for said in heard]:
            assert time.monotonic() < deadline
            heard += members.wait(TIMEOUT_S)
    finally:
        members.close(None)
    assert "Too many references" in heard[-1].value


class Scripted(LocalMembers):
    """Two members that have no processes: one fails, the other is heard at the end alone."""

    def __init__(self) -> None:
        self.said = [[Said(0, JOINED, 0, None), Said(1, JOINED, 0, None)]]
        self.said.append([Said(0, FAILED, 0, RemoteError(0, "ValueError: x", ""))])

    def wait(self, timeout_s: float) -> Any:
        return iter(self.said.pop(0))

    def spawn(self, action: Any) -> None:
        pass

    def start(self, action: Any, notes: Any, struck: Any, saved: Any) -> None:
        pass

    def close(self, error: Any) -> list[Said]:
        assert isinstance(error, RemoteError)
        return [Said(1, FIRED, 0, (3, 1.5))]


def test_what_struck_a_rank_is_heard_although_the_run_has_ended() -> None:
    """Another rank's failure ends the run before this one's last words are read."""
    limits = RestartPolicy(0).limits(2, 0, TIMEOUT_S, TIMEOUT_S, spawns=True)
    supervisor = Supervisor(Scripted(), limits, lambda generation, mended: None)
    with pytest.raises(RemoteError):
        supervisor.run()
    assert supervisor.fired == {3: 1.5}


@pytest.mark.parametrize("piece", [1, 3, 7, 1 << 20])
def test_an_inbox_reads_what_comes_in_pieces_and_never_waits(piece: int) -> None:
    context = process_context([], 1)
    reader, writer = context.Pipe()
    carrier, source = context.Pipe()
    inbox = Inbox(reader)
    assert inbox.take() == []
    messages = [("a", 0, None), ("b", 1, {"x": list(range(300))}), ("c", 2, json.dumps("y" * 999))]
    for message in messages:
        source.send(message)
    content = b"".join(_raw(carrier) for _ in messages)
    came = []
    for start in range(0, len(content), piece):
        os.write(writer.fileno(), content[start : start + piece])
        came += inbox.take()
        if start + piece < len(content):
            assert len(came) < len(messages)
    assert came == messages
    assert not inbox.ended
    writer.close()
    assert inbox.take() == []
    assert inbox.ended
    inbox.close()
    for pipe in (reader, carrier, source):
        pipe.close()


def _raw(pipe: Any) -> bytes:
    """One message as it travels: multiprocessing's length before it."""
    content = pipe.recv_bytes()
    return struct.pack("!i", len(content)) + bytes(content)
