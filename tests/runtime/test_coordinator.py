"""The coordinator's side of a run, over real channels, with workers that only talk."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any

import pytest

from dmlf.errors import (
    BelowMinimumWorkers,
    DeadlineExceeded,
    DmlfError,
    NoAnswer,
    NonFiniteGradient,
    PeerLost,
    RemoteError,
    RendezvousError,
    StepMismatch,
)
from dmlf.protocol import Phase, Tag
from dmlf.runtime import member as words
from dmlf.runtime.coordinator import PURPOSE, RemoteMembers, Secret
from dmlf.runtime.limits import Limits
from dmlf.runtime.supervisor import BEAT, NOTED, Supervisor
from dmlf.runtime.wire import Wire
from dmlf.runtime.wire_errors import error_from_plain, error_to_plain
from dmlf.transport.tcp import Address, dial, listen

SECRET = Secret(bytes(range(32)))
SOURCES = "a" * 64
TIMEOUT_S = 20.0
LIMITS = Limits(
    workers=2, min_workers=2, max_workers=2, spawns=False, grace_s=1.0, join_s=TIMEOUT_S
)


class Worker:
    """Says what it is told to, and hears."""

    def __init__(self, address: Address, sources: str = SOURCES) -> None:
        channel = dial(address, SECRET.key, PURPOSE, None, TIMEOUT_S)
        self.wire = Wire(channel, "the coordinator")
        self.wire.send("join", sources=sources)
        self.heard: list[dict[str, Any]] = []

    def hear(self, kind: str) -> dict[str, Any]:
        """The next message of this kind."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            for index, message in enumerate(self.heard):
                if message["kind"] == kind:
                    del self.heard[: index + 1]
                    return message
            self.heard += self.wire.take()
        raise AssertionError(f"no {kind} came, but {self.heard}")

    def say(self, kind: str, value: Any = None, generation: int = 0, **others: Any) -> None:
        self.wire.send(kind, generation=generation, value=value, **others)

    def ready(self, port: int) -> dict[str, Any]:
        """Take the place that is offered, and be ready to listen at `port`."""
        place = self.hear("prepare")
        self.say(words.JOINED, address=["10.0.0.9", port])
        return place

    def train(self, generation: int = 0) -> dict[str, Any]:
        order = self.hear("start")
        assert order["generation"] == generation
        self.say(words.RESUMED, (5 * generation, "memory"), generation)
        return order


class Meeting:
    """A coordinator of two ranks, in a thread, and its workers."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.workers: list[Worker] = []
        self.told: list[tuple[int, int]] = []

    def open(self, **changes: Any) -> Future[list[Any]]:
        listener = listen("127.0.0.1", 0, SECRET.key)
        self.address: Address = listener.address
        self.members = RemoteMembers(listener, SECRET, SOURCES, {"answer": 42}, leaves=True)
        self.supervisor = Supervisor(
            self.members,
            replace(LIMITS, **changes),
            lambda generation, mended: self.told.append((generation.number, len(mended))),
        )
        return self.pool.submit(self.supervisor.run)

    def worker(self, sources: str = SOURCES) -> Worker:
        self.workers.append(Worker(self.address, sources))
        return self.workers[-1]

    def gather(self) -> tuple[Worker, Worker]:
        """Two workers that train, by rank."""
        first, second = self.worker(), self.worker()
        first.ready(70)
        place = second.ready(71)
        assert (place["job"], place["server"], place["leaves"]) == ({"answer": 42}, None, True)
        order = first.train()
        second.train()
        assert sorted(map(tuple, order["addresses"])) == [("10.0.0.9", 70), ("10.0.0.9", 71)]
        return (first, second) if order["rank"] == 0 else (second, first)


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    meeting = Meeting()
    yield meeting
    for worker in meeting.workers:
        worker.wire.close()
    meeting.pool.shutdown()


def test_who_says_ever_more_keeps_no_other_from_a_word(meeting: Meeting) -> None:
    listener = listen("127.0.0.1", 0, SECRET.key)
    meeting.address = listener.address
    members = RemoteMembers(listener, SECRET, SOURCES, None, leaves=True)
    heard: list[list[tuple[int, str]]] = []

    def hear(kind: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while kind not in [word for said in heard for _, word in said]:
            assert time.monotonic() < deadline
            heard.append([(said.member, said.kind) for said in members.wait(TIMEOUT_S)])

    try:
        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(meeting.worker)
            hear("arrived")
            talker = joining.result()
        for step in range(500):
            talker.say(BEAT, step)
        talker.say(words.LEAVING)
        hear(words.LEAVING)
    finally:
        members.close(None)
    assert max(map(len, heard)) <= 64
    assert sum(map(len, heard)) == 502


def test_a_worker_with_other_sources_is_refused_and_the_coordinator_can_tell(
    meeting: Meeting,
) -> None:
    run = meeting.open(join_s=1.0)
    assert "other sources" in meeting.worker("b" * 64).hear("dismissed")["refused"]
    with pytest.raises(RendezvousError) as caught:
        run.result(TIMEOUT_S)
    assert caught.value.missing == [0, 1]
    refusal = meeting.members.last_refusal
    assert re.match(r"a worker at 127\.0\.0\.1:\d+ was refused: it runs other sources", refusal)


def test_reports_longer_than_a_message_come_back_by_rank(meeting: Meeting) -> None:
    run = meeting.open()
    workers = meeting.gather()
    texts = ["".join(map(str, range(start, start + 400_000))) for start in (0, 7)]
    for worker, text in zip(workers, texts, strict=True):
        worker.say(words.DONE, text)
    for worker in workers:
        worker.hear("end")
        worker.wire.close()
    assert run.result(TIMEOUT_S) == texts


def test_the_cause_is_told_to_all_and_not_its_echo(meeting: Meeting) -> None:
    run = meeting.open()
    first, second = meeting.gather()
    first.say(words.FAILED, error_to_plain(DeadlineExceeded(0, 1, 2.0)))
    second.say(words.FAILED, error_to_plain(RemoteError(1, "ValueError: x", "Traceback: x")))
    for worker in (first, second):
        error = error_from_plain(worker.hear("failed")["error"])
        assert isinstance(error, RemoteError)
        worker.wire.close()
    with pytest.raises(RemoteError) as caught:
        run.result(TIMEOUT_S)
    assert (caught.value.rank, caught.value.traceback) == (1, "Traceback: x")


def test_a_worker_that_is_gone_is_a_lost_rank(meeting: Meeting) -> None:
    run = meeting.open()
    first, second = meeting.gather()
    second.wire.close()
    first.hear("abort")
    first.say(words.ACKNOWLEDGED, address=["10.0.0.9", 72])
    first.hear("failed")
    first.wire.close()
    with pytest.raises(PeerLost) as caught:
        run.result(TIMEOUT_S)
    assert caught.value.peer == "rank 1"


def test_the_place_of_a_lost_worker_is_taken_and_the_notes_handed_on(meeting: Meeting) -> None:
    run = meeting.open(max_restarts=1)
    first, second = meeting.gather()
    first.say(NOTED, {"epoch 0": "first", "so far": "4"})
    first.say(NOTED, {"so far": "5"})
    first.wire.close()
    second.hear("abort")
    second.say(words.ACKNOWLEDGED, address=["10.0.0.9", 73])
    third = meeting.worker()
    third.ready(74)
    order = third.train(1)
    assert (order["rank"], order["notes"]) == (0, {"epoch 0": "first", "so far": "5"})
    assert order["addresses"] == [["10.0.0.9", 74], ["10.0.0.9", 73]]
    second.train(1)
    for worker, text in ((third, "three"), (second, "two")):
        worker.say(words.DONE, text, 1)
    for worker in (third, second):
        worker.hear("end")
        worker.wire.close()
    assert run.result(TIMEOUT_S) == ["three", "two"]
    assert meeting.told == [(1, 1)]


def test_a_worker_that_leaves_is_let_go_and_too_few_end_the_run(meeting: Meeting) -> None:
    run = meeting.open(min_workers=1, max_workers=3, join_s=0.5)
    first, second = meeting.gather()
    for leaver, left, generation in ((first, [second], 0), (second, [], 1)):
        leaver.say(words.LEAVING, generation=generation)
        for worker in (leaver, *left):
            worker.hear("abort")
            worker.say(words.ACKNOWLEDGED, generation=generation, address=["10.0.0.9", 75])
        if left:
            assert leaver.hear("dismissed")["refused"] is None
            assert second.train(1)["world_size"] == 1
        leaver.wire.close()
    with pytest.raises(BelowMinimumWorkers):
        run.result(TIMEOUT_S)


def test_silence_is_a_stall_though_the_connection_stands(meeting: Meeting) -> None:
    run = meeting.open(stall_s=1.0)
    first, second = meeting.gather()
    step = 0
    while not run.done():
        wait([first.wire], 0.05)  # a flood would keep a busy coordinator reading
        step += 1
        first.wire.tell(BEAT, generation=0, value=step)  # the other one lives, and is silent
        first.heard += first.wire.take()
        if any(message["kind"] == "abort" for message in first.heard):
            first.heard.clear()
            first.say(words.ACKNOWLEDGED, address=["10.0.0.9", 76])
            first.hear("failed")
            break
    first.wire.close()
    second.wire.close()
    with pytest.raises(NoAnswer) as caught:
        run.result(TIMEOUT_S)
    assert caught.value.peer == "rank 1"


@pytest.mark.parametrize(
    "message",
    [
        {"kind": words.DONE},
        {"kind": words.FAILED, "generation": 0, "value": 7},
        {"kind": words.JOINED, "generation": "x", "value": None},
        {"kind": words.JOINED, "generation": 0, "value": None, "address": [1, 2, 3]},
    ],
)
def test_a_worker_that_talks_nonsense_is_lost(meeting: Meeting, message: dict[str, Any]) -> None:
    run = meeting.open()
    first, second = meeting.gather()
    second.wire.send(**message)
    first.hear("abort")
    first.say(words.ACKNOWLEDGED, address=["10.0.0.9", 77])
    first.hear("failed")
    first.wire.close()
    with pytest.raises(PeerLost, match="message"):
        run.result(TIMEOUT_S)


TAG = Tag(0, 1, 2, Phase.PUSH, 3, 4)


@pytest.mark.parametrize(
    "error",
    [NonFiniteGradient(7), PeerLost("rank 3", "reset"), StepMismatch(1, TAG, TAG._replace(step=9))],
)
def test_errors_travel_with_type_text_and_fields(error: DmlfError) -> None:
    again = error_from_plain(error_to_plain(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    for name, value in vars(error).items():
        assert getattr(again, name) in (value, str(value))


@pytest.mark.parametrize("kind", ["NoSuchError", "annotations", "Any"])
def test_an_error_of_an_unknown_type_keeps_its_text(kind: str) -> None:
    error = error_from_plain({"type": kind, "message": "what happened", "fields": {}})
    assert isinstance(error, RemoteError)
    assert "what happened" in str(error)
