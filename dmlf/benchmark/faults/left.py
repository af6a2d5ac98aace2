"""What a launcher and its ranks hold on to, so that a run that leaves something is seen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dmlf.runtime.semaphores import named_semaphores

MARK = "DMLF_CAMPAIGN"
"""The variable in the environment of a campaign's processes: its own process id."""
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Traces:
    """How many descriptors this process has open, the ids of processes that are its descendants or
    bear its mark, and the names of its semaphores (Linux).
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


def mark_processes() -> None:
    """From now on, let processes that this one starts be known as its own, also as orphans."""
    os.environ[MARK] = str(os.getpid())


def _relatives() -> Iterator[int]:
    """Descendants of this process, and those that bear its mark.

    Who was started by a process that has ended since is nobody's descendant any more.
    """
    own, parents = os.getpid(), {}
    mark = f"{MARK}={own}".encode()
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
    for pid, parent in parents.items():
        while parent not in (own, 0):
            parent = parents.get(parent, 0)
        if parent == own or (pid != own and mark in _environment(pid)):
            yield pid


def _environment(pid: int) -> list[bytes]:
    """The variables that a process was started with; none of another user's process."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
