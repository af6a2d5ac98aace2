"""What this process and its descendants hold on to, so that a run that leaves something is seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Traces:
    """How many descriptors this process has open, and the ids of its descendants (Linux)."""

    descriptors: int
    processes: frozenset[int]

    def more_than(self, before: Traces) -> str:
        """What has come and not gone since `before`, in words; empty if nothing has."""
        found = []
        if self.descriptors > before.descriptors:
            found.append(f"{self.descriptors - before.descriptors} descriptors")
        if new := sorted(self.processes - before.processes):
            found.append(f"processes {', '.join(map(str, new))}")
        return "; ".join(found)


def traces() -> Traces:
    """What there is now."""
    return Traces(len(os.listdir(_PROC / "self" / "fd")), frozenset(_descendants(os.getpid())))


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    pages = int((_PROC / "self" / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descendants(pid: int) -> Iterator[int]:
    for children in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # the thread or process has ended meanwhile
            continue
        for child in map(int, found):
            yield child
            yield from _descendants(child)
