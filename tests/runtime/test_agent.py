"""A worker of a run on several hosts, without its rank's process: what it tells the coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from dmlf.errors import ConfigError, NoAnswer, NonFiniteGradient, PeerLost
from dmlf.runtime import member as words
from dmlf.runtime.agent import Agent
from dmlf.runtime.coordinator import PURPOSE, SILENCE_S, Secret
from dmlf.runtime.local import LocalMembers
from dmlf.runtime.member import StartOrder
from dmlf.runtime.supervisor import BEAT, GONE, NOTED, Said
from dmlf.runtime.wire import Wire
from dmlf.transport.tcp import Acceptor, listen

SECRET = Secret(bytes(range(32)))
TIMEOUT_S = 20.0


class Rank(LocalMembers):
    """Says what the test has it say."""

    def __init__(self) -> None:
        self.says: list[Said] = []
        self.orders: list[Any] = []
        self.ended = False

    def sources(self) -> list[Any]:
        return []

    def heard(self) -> Iterator[Said]:
        said, self.says = self.says, []
        return iter(said)

    def say(self, kind: str, value: Any = None, generation: int = 0) -> None:
        self.says = [*self.says, Said(0, kind, generation, value)]

    def spawn(self, action: Any) -> None:
        self.say(words.JOINED)

    def order(self, member: int, order: Any) -> None:
        self.orders.append(order)

    def finish(self) -> None:
        pass

    def close(self, error: Any) -> list[Said]:
        self.ended = True
        return []


class Desk:
    """The coordinator's end of one worker."""

    def __init__(self) -> None:
        listener = listen("127.0.0.1", 0, SECRET.key)
        self.rank = Rank()
        self.prepares: Callable[[], object] = lambda: None
        self.pool = ThreadPoolExecutor(1)
        acceptor = Acceptor(listener, SECRET.key, PURPOSE)
        self.run = self.pool.submit(self.work, listener.address)
        channels: list[Any] = []
        while not channels:
            channels = acceptor.accept(TIMEOUT_S)
        acceptor.close()
        self.wire = Wire(channels[0], "the worker")
        self.heard: list[dict[str, Any]] = []

    def work(self, address: Any) -> str:
        def prepare(job: Any, leaves: bool) -> LocalMembers:
            if job == "too much":
                raise ConfigError("job", job, "less")
            self.prepares()
            return self.rank

        return Agent(address, SECRET, None, prepare, TIMEOUT_S).run("sources")

    def hear(self, kind: str) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            for index, message in enumerate(self.heard):
                if message["kind"] == kind:
                    del self.heard[: index + 1]
                    return message
            self.heard += self.wire.take()
        raise AssertionError(f"no {kind} came")

    def place(self, job: Any = None) -> None:
        assert self.hear("join")["sources"] == "sources"
        self.wire.send("prepare", rank=1, server=None, job=job, leaves=True)

    def start(self, generation: int, address: list[Any]) -> StartOrder:
        """Begin a generation in which the worker has rank 1; what its rank is told."""
        before = len(self.rank.orders)
        self.wire.send(
            "start", generation=generation, rank=1, world_size=2, trust_memory=True, notes={},
            addresses=[["127.0.0.1", 1], address], struck=[4], saved=7,
        )  # fmt: skip
        deadline = time.monotonic() + TIMEOUT_S
        while len(self.rank.orders) == before and time.monotonic() < deadline:
            continue
        order = self.rank.orders[-1]
        assert isinstance(order, StartOrder)
        assert (order.generation, order.rank, order.struck, order.saved) == (generation, 1, {4}, 7)
        assert list(order.endpoint.listener.address) == address
        return order


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.wire.close()
    desk.pool.shutdown()
    for order in desk.rank.orders:
        order.endpoint.listener.close()


def test_a_rank_listens_where_the_coordinator_was_told(desk: Desk) -> None:
    """Also where two words say that it has stopped, and the first is acted upon at once."""
    desk.place()
    first = desk.hear(words.JOINED)["address"]
    desk.start(0, first)
    desk.rank.say(words.FAILED, PeerLost("rank 0", "reset"))
    second = desk.hear(words.FAILED)["address"]
    assert second != first
    desk.rank.say(words.ACKNOWLEDGED)  # of an order to stop that has crossed it
    assert desk.hear(words.ACKNOWLEDGED)["address"] == second
    desk.start(1, second)
    desk.rank.say(words.DONE, "report", 1)
    assert desk.hear(words.DONE)["value"] == "report"
    desk.wire.send("end")
    assert desk.run.result(TIMEOUT_S) == "rank 1 done"
    assert desk.rank.ended


def test_a_note_with_an_infinite_loss_comes_back_as_it_was(desk: Desk) -> None:
    desk.place()
    address = desk.hear(words.JOINED)["address"]
    desk.rank.say(NOTED, {"epoch 3": {"test_loss": float("inf")}})
    notes = desk.hear(NOTED)["value"]
    desk.wire.send(
        "start", generation=0, rank=0, world_size=1, trust_memory=True, notes=notes,
        addresses=[address], struck=[], saved=None,
    )  # fmt: skip
    deadline = time.monotonic() + TIMEOUT_S
    while not desk.rank.orders and time.monotonic() < deadline:
        continue
    assert desk.rank.orders[0].notes == {"epoch 3": {"test_loss": float("inf")}}
    desk.wire.send("dismissed", refused=None)
    assert desk.run.result(TIMEOUT_S) == "rank 0 left"


def test_beats_are_passed_on_but_not_too_many(desk: Desk) -> None:
    desk.place()
    desk.hear(words.JOINED)
    for step in range(50):
        desk.rank.say(BEAT, step)
    assert desk.hear(BEAT)["value"] < 50
    desk.rank.say(GONE, "killed by SIGKILL")
    assert desk.hear(GONE)["value"] == "killed by SIGKILL"
    assert len([message for message in desk.heard if message["kind"] == BEAT]) < 10
    with pytest.raises(PeerLost, match="rank 1 is gone: killed by SIGKILL"):
        desk.run.result(TIMEOUT_S)


def test_what_cannot_be_prepared_is_told_and_the_end_is_waited_for(desk: Desk) -> None:
    desk.place(job="too much")
    assert "job: 'too much'" in desk.hear(words.FAILED)["value"]["message"]
    desk.wire.send("dismissed", refused="it cannot")
    with pytest.raises(ConfigError, match="it cannot"):
        desk.run.result(TIMEOUT_S)


def test_what_ended_the_run_elsewhere_is_raised_here(desk: Desk) -> None:
    desk.place()
    desk.hear(words.JOINED)
    plain = {"type": "NonFiniteGradient", "message": "x", "fields": {"step": 3}}
    desk.wire.send("failed", error=plain)
    with pytest.raises(NonFiniteGradient):
        desk.run.result(TIMEOUT_S)
    assert desk.rank.ended


def test_a_lost_coordinator_ends_the_worker(desk: Desk) -> None:
    desk.place()
    desk.hear(words.JOINED)
    desk.wire.close()
    with pytest.raises(PeerLost, match="the coordinator"):
        desk.run.result(TIMEOUT_S)
    assert desk.rank.ended


def test_the_coordinator_is_silent_only_for_who_listens(
    monkeypatch: pytest.MonkeyPatch, desk: Desk
) -> None:
    """To start a process may take longer than the coordinator may be silent: it is not heard."""
    now = [time.monotonic()]
    monkeypatch.setattr("dmlf.runtime.agent.time", SimpleNamespace(monotonic=lambda: now[0]))

    def pass_by() -> None:
        now[0] += 2 * SILENCE_S

    desk.prepares = pass_by
    desk.place()
    desk.hear(words.JOINED)
    desk.rank.say(BEAT, 1)
    desk.hear(BEAT)
    assert not desk.run.done()
    pass_by()
    with pytest.raises(NoAnswer) as caught:
        desk.run.result(TIMEOUT_S)
    assert (caught.value.peer, caught.value.timeout_s) == ("the coordinator", SILENCE_S)
