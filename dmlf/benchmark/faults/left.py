"""What a launcher and its ranks hold on to, so that a run that leaves something is seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dmlf.runtime.semaphores import named_semaphores

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Traces:
    """How many descriptors this process has open, the ids of processes that are its descendants or
    were, and the names of its semaphores (Linux).
    """

    descriptors: int
    processes: frozenset[int]
    semaphores: frozenset[str]

    def more_than(self, before: Traces) -> str:
        """What has come and not gone since `before`, in words; empty if nothing has."""
        found = []
        if self.descriptors > before.descriptors:
            found.append(f"{self.descriptors - before.descriptors} descriptors")
        if new := sorted(self.processes - before.processes):
            found.append(f"processes {', '.join(map(str, new))}")
        if names := sorted(self.semaphores - before.semaphores):
            found.append(f"semaphores {', '.join(names)}")
        return "; ".join(found)


def traces() -> Traces:
    """What there is now."""
    return Traces(
        len(os.listdir(_PROC / "self" / "fd")),
        frozenset(_relatives()),
        frozenset(named_semaphores(os.getpid())),
    )


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    pages = int((_PROC / "self" / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def drafts(folder: str) -> str:
    """What in a folder of checkpoints is not whole, in words; empty if all is."""
    found = sorted(name for name in os.listdir(folder) if name.endswith(".tmp"))
    return f"drafts {', '.join(found)}" if found else ""


def _relatives() -> Iterator[int]:
    """Descendants of this process, and orphans of its session: those whose parent is in none of it.

    Who was started by a process that has ended since is nobody's descendant any more.
    """
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(path.parent.name)
        parents[pid], sessions[pid] = int(fields[1]), int(fields[3])
    own, session = os.getpid(), os.getsid(0)
    for pid, parent in parents.items():
        if sessions[pid] == session and sessions.get(parent) != session:
            yield pid
            continue
        while parent not in (own, 0):
            parent = parents.get(parent, 0)
        if parent == own:
            yield pid
