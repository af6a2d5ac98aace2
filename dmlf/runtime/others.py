"""How much of the cores' time others took while a run had them.

A load average is no evidence of others: it remembers for minutes what the runs before have left.
The kernel counts what the cores did; what this process and its descendants did not do of it was
done by somebody else.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

OTHERS_MATTER = 0.10
"""From this share of the cores' time on, others count as having disturbed a run."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of a core's line: user, nice, system, irq, softirq, and steal, which a hypervisor gave to others.
_BUSY = (0, 1, 2, 5, 6, 7)
# Of a process's line, after its name: its own user and system time, and that of children that have
# ended and been waited for.
_PARENT, _OWN = 1, slice(11, 15)


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds until now: on the clock, of work on the cores we may use, and of our own work."""

    clock_s: float
    busy_s: float
    own_s: float
    cores: int


def cpu_times(proc: Path = Path("/proc")) -> CpuTimes | None:
    """Read the kernel's counters; None where there are none. Cost: a line of every process."""
    cores = os.sched_getaffinity(0)
    try:
        busy = _busy_ticks((proc / "stat").read_text(), cores)
        own = _own_ticks(proc)
    except (OSError, ValueError, IndexError):
        return None
    return CpuTimes(time.monotonic(), busy / _TICKS_PER_S, own / _TICKS_PER_S, len(cores))


def share_of_others(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Their part of the cores' time between two readings, 0 to 1; None where there is no telling.

    The kernel may count a tick to one process that another had a part of: of a run of a few seconds
    the share is known to about a percent.
    """
    if before is None or after is None or after.clock_s <= before.clock_s:
        return None
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, others_s / (after.cores * (after.clock_s - before.clock_s))))


def _busy_ticks(stat: str, cores: set[int]) -> int:
    """What these cores did, from /proc/stat. Raises ValueError where one is not in it."""
    lines = {line.split(" ", 1)[0]: line.split()[1:] for line in stat.splitlines() if line}
    if not all(f"cpu{core}" in lines for core in cores):
        raise ValueError("no counters of some core")
    return sum(int(lines[f"cpu{core}"][column]) for core in cores for column in _BUSY)


def _own_ticks(proc: Path) -> int:
    """What this process, its descendants, and those of them that have ended did."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            # The name, in brackets, may hold anything.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        parents[int(entry.name)] = int(fields[_PARENT])
        ticks[int(entry.name)] = sum(map(int, fields[_OWN]))
    ours = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= grown
    return sum(ticks[pid] for pid in ours)
