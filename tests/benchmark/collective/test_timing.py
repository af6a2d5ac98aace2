"""What of a turn is timed: its calls, but not the first after values were put in."""

from __future__ import annotations

import pytest

from dmlf.benchmark.collective import timing
from dmlf.benchmark.collective.data import calls_per_fill


class Recording:
    """A turn that notes what it is told; its first call after a fill takes 100 s, any other 1 s."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.clock_s = 0.0

    def prepare(self, numel: int) -> None:
        raise AssertionError("not part of the timing")

    def fill(self) -> None:
        self.clock_s += 1000.0
        self.rows.append(0)

    def barrier(self) -> None:
        self.clock_s += 1000.0

    def call(self) -> None:
        self.clock_s += 1.0 if self.rows[-1] else 100.0
        self.rows[-1] += 1

    def check(self, calls: int) -> None:
        assert calls == self.rows[-1]
        self.clock_s += 1000.0

    def close(self) -> None:
        raise AssertionError("not part of the timing")


@pytest.mark.parametrize("world_size", [2, 4, 1024])
@pytest.mark.parametrize("calls", [1, 2, 85, 200])
def test_only_calls_on_warm_ranks_are_timed(
    monkeypatch: pytest.MonkeyPatch, calls: int, world_size: int
) -> None:
    turn = Recording()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: turn.clock_s)
    assert timing.time_calls(turn, calls, world_size) == calls
    assert sum(turn.rows) == calls + len(turn.rows)
    assert max(turn.rows) <= calls_per_fill(world_size)
