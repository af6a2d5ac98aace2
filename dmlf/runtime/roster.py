"""The members of a group, what each of them is doing, and the ranks they are given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Doing(Enum):
    """What a member is doing."""

    COMING = auto()  # spawned or admitted, not joined
    WAITING = auto()  # for a start
    RUNNING = auto()
    STOPPING = auto()  # told to
    DONE = auto()
    CONDEMNED = auto()  # killed, and not known to be gone


@dataclass(slots=True)
class Member:
    """A worker, or the server of a number.

    rank: in the generation it was in last, or else the place that it is meant to take.
    due_s: when it must have done what it does. inside: whether it was in the last generation.
    leaving: whether it wants to. resumed: whether it trains in the generation that it was in last.
    """

    number: int
    server: int | None
    rank: int
    due_s: float | None
    doing: Doing = Doing.COMING
    inside: bool = False
    leaving: bool = False
    resumed: bool = False
    step: int = 0

    def wait(self) -> None:
        """It has joined or stopped, and waits for a start."""
        self.doing, self.due_s = Doing.WAITING, None


class Roster:
    """All members by number, in the order of their coming.

    workers, servers: of how many the group is to begin with.
    """

    def __init__(self, workers: int, servers: int) -> None:
        self._world_size = workers  # of the last start
        self._servers = servers
        self._members: dict[int, Member] = {}
        self.next_number = 0
        """Of a member that is spawned."""

    def get(self, number: int) -> Member | None:
        """The member of a number, if it is there."""
        return self._members.get(number)

    def all(self) -> list[Member]:
        """Every member; the list stays as it is when members come and go."""
        return list(self._members.values())

    def workers(self) -> list[Member]:
        """Those that are no servers."""
        return [member for member in self._members.values() if member.server is None]

    def staying(self) -> list[Member]:
        """Workers that do not want to leave."""
        return [member for member in self.workers() if not member.leaving]

    def inside(self) -> list[Member]:
        """Who was in the last generation, and is still there."""
        return [member for member in self._members.values() if member.inside]

    def waiting(self) -> list[Member]:
        """Who can be started."""
        return [member for member in self._members.values() if member.doing is Doing.WAITING]

    def vacant_servers(self) -> list[int]:
        """The numbers of servers that nobody is."""
        held = {member.server for member in self._members.values()}
        return [server for server in range(self._servers) if server not in held]

    def add(self, number: int, server: int | None, due_s: float) -> Member:
        """Take in a member, that must join by `due_s`; it is meant for the first free rank."""
        if server is None:
            taken = {member.rank for member in self.workers()}
            rank = next(rank for rank in range(len(taken) + 1) if rank not in taken)
        else:
            rank = self._world_size + server
        self.next_number = max(self.next_number, number + 1)
        member = self._members[number] = Member(number, server, rank, due_s)
        return member

    def remove(self, number: int) -> Member | None:
        """Forget a member; the one that it was."""
        return self._members.pop(number, None)

    def start(self, due_s: float) -> list[int]:
        """Have all who wait run, and make progress by `due_s`; return their numbers by new rank.

        Workers keep the order of their ranks, and servers come after them.
        """
        ready = self.waiting()
        workers = sorted(
            (member for member in ready if member.server is None),
            key=lambda member: (member.rank, member.number),
        )
        servers = {member.server: member for member in ready if member.server is not None}
        order = [*workers, *(servers[server] for server in sorted(servers))]
        for rank, member in enumerate(order):
            member.rank, member.inside, member.doing = rank, True, Doing.RUNNING
            member.resumed, member.due_s = False, due_s
        self._world_size = len(workers)
        return [member.number for member in order]
