"""The coordinator's and the worker's side of a run, over a real channel, without any training."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dmlf.errors import (
    ConfigError,
    DeadlineExceeded,
    DmlfError,
    NonFiniteGradient,
    PeerLost,
    RemoteError,
    RendezvousError,
    StepMismatch,
)
from dmlf.protocol import Phase, Tag
from dmlf.runtime.coordinator import Coordinator, CoordinatorLink, Secret
from dmlf.runtime.wire_errors import error_from_plain, error_to_plain
from dmlf.transport.tcp import Address, listen

SECRET = Secret(bytes(range(32)))
SOURCES = "a" * 64
TIMEOUT_S = 20.0


class Meeting:
    """A coordinator of two ranks, and where it listens."""

    def __init__(self) -> None:
        listener = listen("127.0.0.1", 0, SECRET.key)
        self.address: Address = listener.address
        self.coordinator = Coordinator(listener, SECRET, 2, SOURCES)
        self.pool = ThreadPoolExecutor(3)
        self.links: list[CoordinatorLink] = []

    def link(self) -> CoordinatorLink:
        self.links.append(CoordinatorLink(self.address, SECRET, TIMEOUT_S))
        return self.links[-1]

    def gather(self) -> list[CoordinatorLink]:
        """Two workers that have been given their ranks, by rank."""
        waiting = self.pool.submit(self.coordinator.wait_for_workers, TIMEOUT_S)
        links = [self.pool.submit(self.link) for _ in range(2)]
        orders = [
            self.pool.submit(link.result(TIMEOUT_S).join, ("10.0.0.9", 70 + i), SOURCES, TIMEOUT_S)
            for i, link in enumerate(links)
        ]
        waiting.result(TIMEOUT_S)
        self.coordinator.start({"answer": 42})
        by_rank = {}
        for link, order in zip(links, orders, strict=True):
            told = order.result(TIMEOUT_S)
            assert told["job"] == {"answer": 42}
            assert sorted(map(tuple, told["addresses"])) == [("10.0.0.9", 70), ("10.0.0.9", 71)]
            by_rank[told["rank"]] = link.result()
        return [by_rank[0], by_rank[1]]


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    meeting = Meeting()
    yield meeting
    for link in meeting.links:
        link.close()
    meeting.coordinator.close()
    meeting.pool.shutdown()


def test_a_worker_with_other_sources_is_refused_and_the_coordinator_can_tell(
    meeting: Meeting,
) -> None:
    waiting = meeting.pool.submit(meeting.coordinator.wait_for_workers, 1.0)
    with pytest.raises(ConfigError, match="other sources"):
        meeting.link().join(("10.0.0.9", 70), "b" * 64, TIMEOUT_S)
    with pytest.raises(RendezvousError, match="other sources") as caught:
        waiting.result(TIMEOUT_S)
    assert caught.value.missing == [0, 1]


def test_reports_longer_than_a_message_come_back_by_rank(meeting: Meeting) -> None:
    links = meeting.gather()
    texts = ["".join(map(str, range(start, start + 200_000))) for start in (0, 7)]
    sent = [
        meeting.pool.submit(link.send_report, text) for link, text in zip(links, texts, strict=True)
    ]
    assert meeting.coordinator.collect_reports() == texts
    for report in sent:
        report.result(TIMEOUT_S)


def test_the_cause_is_told_to_all_and_not_its_echo(meeting: Meeting) -> None:
    first, second = meeting.gather()
    first.send_failure(DeadlineExceeded(0, 1, 2.0))
    second.send_failure(RemoteError(1, "ValueError: x", "Traceback: x"))
    with pytest.raises(RemoteError) as caught:
        meeting.coordinator.collect_reports()
    assert (caught.value.rank, caught.value.traceback) == (1, "Traceback: x")
    with pytest.raises(RemoteError):
        first.check()


def test_a_worker_that_is_gone_is_a_lost_rank(meeting: Meeting) -> None:
    _, second = meeting.gather()
    second.close()
    with pytest.raises(PeerLost) as caught:
        meeting.coordinator.collect_reports()
    assert caught.value.peer == "rank 1"


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
