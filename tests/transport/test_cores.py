"""A rank leaves a core that it shares, now and then, and may run anywhere afterwards."""

from __future__ import annotations

import os

import pytest

from dmlf.transport import cores

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one core, which cannot be left"
)


def test_the_core_is_left_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_running", lambda: os.cpu_count())
    allowed = os.sched_getaffinity(0)
    mover = cores.CoreMover()
    here = cores.current_core()
    asked: list[set[int]] = []
    real = os.sched_setaffinity
    try:
        os.sched_setaffinity = lambda pid, which: (asked.append(set(which)), real(pid, which))[1]
        assert mover.leave(here)
    finally:
        os.sched_setaffinity = real
    assert asked == [allowed - {here}, allowed]
    assert os.sched_getaffinity(0) == allowed


def test_it_is_left_at_most_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(cores, "_running", lambda: 1)
    monkeypatch.setattr(cores.time, "monotonic", lambda: now[0])
    mover = cores.CoreMover()
    tried = []
    for later_s in (0.0, cores.MOVE_S / 2, cores.MOVE_S / 2, cores.MOVE_S):
        now[0] += later_s
        tried.append(mover.leave(cores.current_core()))
    assert tried == [True, False, True, True]


def test_a_process_bound_to_one_core_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: {3})
    monkeypatch.setattr(cores.os, "sched_setaffinity", lambda *_: pytest.fail("it has no other"))
    assert not cores.CoreMover().leave(3)


def test_where_every_core_is_busy_a_rank_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_running", lambda: (os.cpu_count() or 1) + 1)
    monkeypatch.setattr(cores.os, "sched_setaffinity", lambda *_: pytest.fail("none is idle"))
    assert not cores.CoreMover().leave(cores.current_core())


def test_this_thread_is_counted_among_those_that_run() -> None:
    assert cores._running() >= 1
