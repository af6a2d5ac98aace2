"""Drives protocol generators in one process: first-in first-out links, no copies, no clock.

Schedules, faults and invariants are the simulator's business (`dmlf.simulation`); this is the
least that can run a step.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dmlf.errors import DmlfError
from dmlf.protocol import (
    Accumulator,
    Algorithm,
    Apply,
    Effect,
    Gradient,
    Member,
    Message,
    ReadParameters,
    Recv,
    Send,
    Steps,
    WriteParameters,
    owned_buckets,
    registry,
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way."""

    src: int
    dst: int
    message: Message

    @property
    def payload_bytes(self) -> int:
        payload = self.message.payload
        return payload.nbytes if isinstance(payload, np.ndarray) else len(payload)


@dataclass(slots=True)
class Outcome:
    """What happened until no rank could move any more."""

    sent: list[Sent] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    errors: dict[int, DmlfError] = field(default_factory=dict)
    blocked: dict[int, Recv] = field(default_factory=dict)
    num_unread: int = 0

    def completed(self, num_ranks: int) -> bool:
        """Whether every rank finished and every message was received."""
        return self.finished == set(range(num_ranks)) and self.num_unread == 0


Tamper = Callable[[int, Sent], Message]
"""(index of the message, message) -> what is delivered in its place."""


def drive(
    programs: Mapping[int, Steps[Any]],
    answer: Callable[[int, Effect], Any] | None = None,
    tamper: Tamper | None = None,
    turns: Sequence[int] | None = None,
) -> Outcome:
    """Run `programs` by rank, one effect each in turn, until none can move.

    `answer` fulfils the effects that are not messages; `turns` is the order of the ranks.
    """
    outcome = Outcome()
    links: dict[tuple[int, int], deque[Message]] = defaultdict(deque)
    results: dict[int, Any] = dict.fromkeys(programs)
    moved = True
    while moved:
        moved = False
        for rank in turns or list(programs):
            if rank in outcome.blocked:
                link = links[outcome.blocked[rank].src, rank]
                if link:
                    del outcome.blocked[rank]
                    results[rank] = link.popleft()
            if rank not in results:
                continue
            moved = True
            try:
                effect = programs[rank].send(results.pop(rank))
            except StopIteration:
                outcome.finished.add(rank)
            except DmlfError as error:
                outcome.errors[rank] = error
            else:
                if isinstance(effect, Recv):
                    outcome.blocked[rank] = effect
                elif isinstance(effect, Send):
                    sent = Sent(rank, effect.dst, Message(effect.tag, effect.payload))
                    arriving = tamper(len(outcome.sent), sent) if tamper else sent.message
                    outcome.sent.append(sent)
                    links[rank, effect.dst].append(arriving)
                    results[rank] = None
                else:
                    assert answer is not None, f"rank {rank} yielded {effect}"
                    results[rank] = answer(rank, effect)
    outcome.num_unread = sum(map(len, links.values()))
    return outcome


@dataclass(frozen=True, slots=True)
class Group:
    """An algorithm with its number of servers, for a world of any size."""

    algorithm: Algorithm
    num_servers: int = 0

    def size(self, world_size: int) -> int:
        return world_size + self.num_servers

    def member(self, rank: int, world_size: int, generation: int = 0) -> Member:
        return Member(rank, world_size, self.num_servers, generation)

    def held(self, rank: int, world_size: int, num_buckets: int) -> list[int]:
        """The buckets that a rank has: all of them, or a server its own."""
        if rank < world_size:
            return list(range(num_buckets))
        return list(owned_buckets(rank - world_size, num_buckets, self.num_servers))


def group(name: str, num_servers: int = 1) -> Group:
    algorithm = registry()[name]
    return Group(algorithm, algorithm.server_count(num_servers))


def groups(algorithms: Iterable[str]) -> dict[str, Group]:
    """A group of each algorithm; of those with servers one with 1, 2 and 3 of them."""
    return {
        name if count == 1 else f"{name}-{count}": group(name, count)
        for name in algorithms
        for count in ((1, 2, 3) if registry()[name].has_servers else (1,))
    }


@dataclass(slots=True)
class Step:
    """One step of a whole group: what was sent, who applied, which parameters came out.

    A server has parameters of the buckets that it owns only. The "optimizer" of these tests
    replaces the parameters by the reduced gradient.
    """

    outcome: Outcome
    applied: list[tuple[int, int]]
    parameters: list[dict[int, Any]]


def run_step(
    group: Group,
    buckets: Sequence[Sequence[Accumulator]],
    *,
    step: int = 0,
    generation: int = 0,
    tamper: Tamper | None = None,
    turns: Sequence[int] | None = None,
) -> Step:
    """Run one step of `group`; `buckets[rank][bucket]`, servers after the workers."""
    world_size = len(buckets) - group.num_servers
    members = [group.member(rank, world_size, generation) for rank in range(len(buckets))]
    held = [group.held(rank, world_size, len(buckets[rank])) for rank in range(len(buckets))]
    applied: list[tuple[int, int]] = []
    parameters: list[dict[int, Any]] = [{} for _ in members]

    def answer(rank: int, effect: Effect) -> Any:
        match effect:
            case Gradient(step=of_step, bucket=index):
                assert of_step == step
                assert index in held[rank]
                return buckets[rank][index]
            case Apply(step=of_step):
                applied.append((rank, of_step))
                for index in held[rank]:
                    bucket = buckets[rank][index]
                    parameters[rank][index] = bucket.reduced(slice(0, bucket.numel))
            case ReadParameters(bucket=index):
                return parameters[rank][index]
            case WriteParameters(bucket=index, payload=payload):
                parameters[rank][index] = payload
        return None

    programs = {
        member.rank: group.algorithm.rank_step(member, step, len(buckets[member.rank]))
        for member in members
    }
    return Step(drive(programs, answer, tamper, turns), applied, parameters)
