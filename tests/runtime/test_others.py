"""Who took the cores' time: read from the kernel's counters, ours told apart."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dmlf.runtime.others import CpuTimes, cpu_times, share_of_others

HZ = os.sysconf("SC_CLK_TCK")
BEFORE = CpuTimes(clock_s=100.0, busy_s=50.0, own_s=7.0, cores=2)
# user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice: in this order.
COUNTERS = "1 2 4 1000 2000 8 16 32 4000 8000"
BUSY_TICKS = 1 + 2 + 4 + 8 + 16 + 32


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of four cores, of which we may use two."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 3})
    lines = [f"cpu  {COUNTERS}", *(f"cpu{core} {COUNTERS}" for core in range(4)), "intr 5"]
    (tmp_path / "stat").write_text("\n".join(lines))
    return tmp_path


def process(proc: Path, pid: int, parent: int, ticks: tuple[int, int, int, int]) -> None:
    """ticks: user and system, and both of the children that it has waited for."""
    (proc / str(pid)).mkdir()
    text = f"{pid} (a) b (c)) S {parent} " + "9 " * 9 + " ".join(map(str, ticks)) + " 9 9 9"
    (proc / str(pid) / "stat").write_text(text)


def test_work_counts_on_own_cores_and_of_own_descendants(proc: Path) -> None:
    mine = os.getpid()
    process(proc, mine, 1, (100, 20, 3, 4))
    process(proc, mine + 1, mine, (1000, 0, 0, 0))
    process(proc, mine + 2, mine + 1, (10_000, 0, 0, 0))
    process(proc, mine + 3, 1, (100_000, 0, 0, 0))  # somebody else's
    (proc / "self").mkdir()
    times = cpu_times(proc)
    assert times is not None
    assert times.busy_s == pytest.approx(2 * BUSY_TICKS / HZ)
    assert times.own_s == pytest.approx(11_127 / HZ)
    assert times.cores == 2


def test_without_counters_nothing_is_said(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_times(proc / "absent") is None
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {7})
    assert cpu_times(proc) is None
    assert share_of_others(None, BEFORE) is None
    assert share_of_others(BEFORE, None) is None


@pytest.mark.parametrize(
    ("busy_s", "own_s", "share"),
    [(20.0, 20.0, 0.0), (20.0, 15.0, 0.25), (12.0, 0.0, 0.6), (3.0, 4.0, 0.0), (30.0, 0.0, 1.0)],
)
def test_what_we_did_not_do_others_did(busy_s: float, own_s: float, share: float) -> None:
    after = CpuTimes(110.0, BEFORE.busy_s + busy_s, BEFORE.own_s + own_s, 2)
    assert share_of_others(BEFORE, after) == pytest.approx(share)
    assert share_of_others(BEFORE, replace(after, clock_s=BEFORE.clock_s)) is None


def test_a_child_that_has_ended_is_ours() -> None:
    before = cpu_times()
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True, timeout=60)
    after = cpu_times()
    assert before is not None
    assert after is not None
    assert after.own_s - before.own_s > 0.25
    assert after.busy_s - before.busy_s > 0.25
