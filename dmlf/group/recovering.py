"""The processes of `dmlf.launch` and `dmlf run` where ranks may be lost, leave and join."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from types import FrameType
from typing import Any

from dmlf.errors import PeerLost
from dmlf.runtime import member as words
from dmlf.runtime.events import Start
from dmlf.runtime.history import Generation, Incident
from dmlf.runtime.local import JOIN_S, LocalMembers
from dmlf.runtime.outcomes import collect
from dmlf.runtime.seat import RETURNED, FinishOrder, run_seated
from dmlf.runtime.supervisor import GONE, LOOK_S, RestartPolicy, Said, Supervisor

STALL_MARGIN_S = 1.0
"""How much longer than a wait may take a rank may go without progress: who waits says it better."""


class SeatedMembers(LocalMembers):
    """Members that run user code once each, through all generations and beyond the last.

    Whoever was lost from a generation that goes on without it is replaced when the next one has
    begun, up to the number of workers at the start; a signal SIGUSR1 to this process asks for one
    more. results: by rank, once all have ended.
    """

    main = staticmethod(run_seated)

    def __init__(
        self, context: ForkServerContext, program: str, argument: Any, make: Any, workers: int
    ) -> None:
        super().__init__(context, program, argument, make, leaves=True)
        self._workers = workers
        self._ranks: Mapping[int, int] = {}  # by member, of the last Start
        self._ended: set[int] = set()
        self._wanted = 0
        self._lost = 0
        self.results: list[Any] = []

    @contextmanager
    def growing(self) -> Iterator[None]:
        """Take SIGUSR1 as the wish for one worker more; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def grow(_number: int, _frame: FrameType | None) -> None:
            self._wanted += 1

        previous = signal.signal(signal.SIGUSR1, grow)
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR1, previous)

    def heard(self) -> Iterator[Said]:
        """What has been said by now, with the wishes for more workers."""
        for said in super().heard():
            if said.kind == GONE and said.member in self._ranks:
                self._lost += 1
            yield said
        wanted, self._wanted = self._wanted, 0
        if wanted:
            yield Said(-1, words.WANTED, 0, wanted)

    def start(
        self, action: Start, notes: Mapping[int, Any], struck: frozenset[int], saved: int | None
    ) -> None:
        """Begin a generation, and have those replaced that it lacks."""
        super().start(action, notes, struck, saved)
        self._ranks = dict(action.ranks)
        lost, self._lost = self._lost, 0
        self._wanted += max(0, min(lost, self._workers - action.world_size))

    def finish(self) -> None:
        """Let all go on to the end of their code; the first failure ends them."""
        for member in self._ranks:
            self.order(member, FinishOrder())
        self.results = collect(range(len(self._ranks)), self._outcomes)

    def _outcomes(self, timeout_s: float | None) -> Iterator[tuple[int, Any]]:
        for said in self.wait(LOOK_S if timeout_s is None else min(LOOK_S, timeout_s)):
            rank = self._ranks.get(said.member)
            if rank is None or rank in self._ended:
                continue
            if said.kind in (RETURNED, words.FAILED):
                self._ended.add(rank)
                yield rank, said.value
            elif said.kind == GONE:
                self._ended.add(rank)
                yield rank, PeerLost(f"rank {rank}", said.value)


def run_recovering(
    context: ForkServerContext,
    program: str,
    argument: Any,
    make_endpoints: Any,
    world_size: int,
    restarts: RestartPolicy,
    timeout_s: float,
) -> list[Any]:
    """Run `program(seat, argument)` in `world_size` processes to begin with; return the results.

    When this returns or raises, every process has ended.
    """
    join_s = max(JOIN_S, timeout_s)
    limits = restarts.limits(world_size, 0, timeout_s + STALL_MARGIN_S, join_s, spawns=True)
    members = SeatedMembers(context, program, argument, make_endpoints, world_size)
    with members.growing():
        Supervisor(members, limits, _tell).run()
    return members.results


def _tell(generation: Generation, mended: Sequence[Incident]) -> None:
    for incident in mended:
        print(
            f"dmlf: generation {incident.generation} ended: {incident.cause}",
            file=sys.stderr,
        )
    changes = {"joined": generation.joined, "left": generation.left, "lost": generation.lost}
    told = ", ".join(f"{len(members)} {what}" for what, members in changes.items() if members)
    took_s = (generation.resumed_s or time.monotonic()) - (generation.ended_s or 0.0)
    print(
        f"dmlf: generation {generation.number}: world size {len(generation.workers)} "
        f"({told or 'the same'}), going on after commit {generation.step}, "
        f"from {generation.source}, {took_s:.2f} s later",
        file=sys.stderr,
        flush=True,
    )
