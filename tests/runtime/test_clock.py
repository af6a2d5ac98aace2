"""How far a rank's clock is from rank 0's, between machines whose clocks are shifted on purpose."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dmlf.errors import PhaseMismatch
from dmlf.protocol import Member, Message, Phase, Tag
from dmlf.runtime import Driver, clock
from dmlf.runtime.clock import seconds_behind_rank_0
from dmlf.transport import TRANSPORTS, Transport

TIMEOUT_S = 30.0


class Machine(threading.local):
    """What the thread of a rank takes for its machine: its clock, and this boot of it."""

    ahead_s = 0.0
    boot = b"0" * 16

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(clock, "time", machine)
    monkeypatch.setattr(clock, "boot_id", lambda: machine.boot)
    return machine


def driver_of(transport: Transport) -> Driver:
    local: Any = None  # no gradients, no parameters
    return Driver(transport, local, TIMEOUT_S)


def corrections(machine: Machine, ahead_s: list[float], boots: list[bytes]) -> list[float]:
    size = len(boots)
    endpoints = TRANSPORTS["queue"](multiprocessing.get_context("spawn"), size)
    transports = [endpoint.connect() for endpoint in endpoints]

    def run(rank: int) -> float:
        machine.ahead_s, machine.boot = ahead_s[rank], boots[rank]
        return driver_of(transports[rank]).run(seconds_behind_rank_0(Member(rank, size)))

    try:
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(run, range(size)))
    finally:
        for transport in transports:
            transport.close()


@pytest.mark.parametrize("of_rank_0", [0.0, 70_000.0])
def test_added_to_a_ranks_clock_it_gives_that_of_rank_0(machine: Machine, of_rank_0: float) -> None:
    ahead_s = [of_rank_0, 1000.0, -500.0]
    first, *others = corrections(machine, ahead_s, [b"0" * 16, b"1" * 16, b"2" * 16])
    assert first == 0.0
    for rank, correction in enumerate(others, start=1):
        assert ahead_s[rank] + correction == pytest.approx(of_rank_0, abs=1.0)


def test_machines_that_do_not_name_their_boot_are_measured(machine: Machine) -> None:
    correction = corrections(machine, [0.0, 1000.0], [bytes(16)] * 2)[1]
    assert correction == pytest.approx(-1000.0, abs=1.0)


def test_ranks_of_one_boot_share_a_clock(machine: Machine) -> None:
    """What is measured would only be noise."""
    assert corrections(machine, [0.0, 0.25], [b"1" * 16] * 2) == [0.0, 0.0]


def test_another_message_is_no_question() -> None:
    endpoints = TRANSPORTS["queue"](multiprocessing.get_context("spawn"), 2)
    first, second = (endpoint.connect() for endpoint in endpoints)
    second.send(0, Message(Tag(0, 0, 0, Phase.PUSH, 0, 1), b""))
    with pytest.raises(PhaseMismatch):
        driver_of(first).run(seconds_behind_rank_0(Member(0, 2)))
    first.close()
    second.close()
