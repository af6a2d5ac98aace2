"""What this process and its descendants hold on to, so that a run that leaves something is seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def traces() -> set[str]:
    """Open descriptors of this process by number, and its descendants by process id (Linux)."""
    descriptors = {f"descriptor {name}" for name in os.listdir(_PROC / "self" / "fd")}
    # Listing opens one of its own, which is gone again.
    still = {name for name in descriptors if _is_open(name)}
    return still | {f"process {pid}" for pid in _descendants(os.getpid())}


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    pages = int((_PROC / "self" / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _is_open(name: str) -> bool:
    try:
        os.fstat(int(name.split()[1]))
    except OSError:
        return False
    return True


def _descendants(pid: int) -> Iterator[int]:
    for children in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # the thread or process has ended meanwhile
            continue
        for child in map(int, found):
            yield child
            yield from _descendants(child)
