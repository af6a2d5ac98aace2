"""Faults: what goes wrong, where, and plans of several of them.

A fault is addressed by a place that does not depend on the schedule: the n-th message of a link,
the n-th effect of a rank, or a rank's gradient of a bucket in a step.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from dmlf.protocol import Tag
from dmlf.protocol.tags import Phase
from dmlf.simulation.scenario import Scenario


class FaultKind(StrEnum):
    """What goes wrong with one message, or with one rank."""

    DROP = "drop"
    DELAY = "delay"
    DUPLICATE = "duplicate"
    REORDER = "reorder"
    CORRUPT = "corrupt"
    MISTAG = "mistag"
    MISDIRECT = "misdirect"
    STALE = "stale"
    CRASH = "crash"
    PAUSE = "pause"
    NON_FINITE = "non_finite"


MESSAGE_KINDS = tuple(FaultKind)[:8]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    A message fault happens to message number `index` from `rank` to `peer`; CRASH and PAUSE
    before effect number `index` of `rank`; NON_FINITE in its gradient of step `index`, in the
    bucket `detail`.
    detail: duration_ns for DELAY, REORDER and PAUSE; for CORRUPT 0 (the payload) or 1 (the tag);
    for MISTAG the number of the tag's field (the frame is sound, so only the protocol can tell);
    for MISDIRECT the number of the wrong link in `other_links`; for STALE -1 (the message of an
    earlier generation) or the index of the earlier message that comes first once more.
    """

    kind: FaultKind
    rank: int
    index: int
    peer: int = -1
    detail: int = 0

    def __str__(self) -> str:
        if self.kind in MESSAGE_KINDS:
            where = f"message {self.index} from rank {self.rank} to rank {self.peer}"
        elif self.kind is FaultKind.NON_FINITE:
            where = f"gradient of step {self.index} on rank {self.rank}"
        else:
            where = f"rank {self.rank} before effect {self.index}"
        return f"{self.kind} {where} (detail {self.detail})"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a fault-free run does: messages on each link, effects of each rank."""

    messages: tuple[tuple[int, int, int], ...]  # (src, dst, count)
    effects: tuple[int, ...]


def other_links(group_size: int, src: int, dst: int) -> list[tuple[int, int]]:
    """All links but the one from `src` to `dst`: where a message can be misdirected to."""
    ranks = range(group_size)
    return [(a, b) for a in ranks for b in ranks if a != b and (a, b) != (src, dst)]


def mistagged(tag: Tag, field: int, group_size: int) -> Tag:
    """`tag` with one field changed."""
    name = Tag._fields[field]
    if name == "phase":
        phases = list(Phase)
        return tag._replace(phase=phases[(phases.index(tag.phase) + 1) % len(phases)])
    if name == "src":
        return tag._replace(src=(tag.src + 1) % group_size)
    return tag._replace(**{name: getattr(tag, name) + 1})


def _durations_ns(timeout_ns: int) -> tuple[int, int, int]:
    """A short, a long but bearable, and an unbearable duration."""
    return timeout_ns // 1000, timeout_ns * 2 // 5, timeout_ns * 3


def message_faults(
    scenario: Scenario, kind: FaultKind, src: int, dst: int, index: int
) -> list[Fault]:
    """All faults of one kind at one message."""
    size = scenario.group_size
    details: Iterable[int] = (0,)
    if kind in (FaultKind.DELAY, FaultKind.REORDER):
        details = _durations_ns(scenario.timeout_ns)
    elif kind is FaultKind.CORRUPT:
        details = (0, 1)
    elif kind is FaultKind.MISTAG:
        details = range(len(Tag._fields))
    elif kind is FaultKind.MISDIRECT:
        details = range(len(other_links(size, src, dst)))
    elif kind is FaultKind.STALE:
        details = range(-1, index)
    return [Fault(kind, src, index, dst, detail) for detail in details]


def single_faults(scenario: Scenario, footprint: Footprint) -> Iterator[Fault]:
    """Every fault there is: each kind at each message, effect and gradient."""
    for src, dst, count in footprint.messages:
        for index in range(count):
            for kind in MESSAGE_KINDS:
                yield from message_faults(scenario, kind, src, dst, index)
    for rank, count in enumerate(footprint.effects):
        for index in range(count):
            yield Fault(FaultKind.CRASH, rank, index)
            for duration_ns in _durations_ns(scenario.timeout_ns):
                yield Fault(FaultKind.PAUSE, rank, index, detail=duration_ns)
    for rank in range(scenario.world_size):
        for step in range(scenario.steps):
            for bucket in _buckets_that_can_be_nan(scenario):
                yield Fault(FaultKind.NON_FINITE, rank, step, detail=bucket)


def _buckets_that_can_be_nan(scenario: Scenario) -> list[int]:
    return [bucket for bucket, numel in enumerate(scenario.bucket_numels) if numel]


def random_plan(scenario: Scenario, footprint: Footprint, seed: int) -> tuple[Fault, ...]:
    """No to three faults, drawn from `seed`; at most one at any place."""
    rng = random.Random(f"faults {seed}")
    kinds = [kind for kind in FaultKind if footprint.messages or kind not in MESSAGE_KINDS]
    if not any(scenario.bucket_numels):
        kinds.remove(FaultKind.NON_FINITE)
    plan: dict[tuple[int, int, int], Fault] = {}
    for _ in range(rng.choices((0, 1, 2, 3), weights=(1, 5, 3, 2))[0]):
        kind = rng.choice(kinds)
        if kind is FaultKind.NON_FINITE:
            rank, step = rng.randrange(scenario.world_size), rng.randrange(scenario.steps)
            bucket = rng.choice(_buckets_that_can_be_nan(scenario))
            fault = Fault(kind, rank, step, detail=bucket)
        elif kind in MESSAGE_KINDS:
            src, dst, count = rng.choice(footprint.messages)
            choices = message_faults(scenario, kind, src, dst, rng.randrange(count))
            if not choices:
                continue
            fault = rng.choice(choices)
            if kind is FaultKind.STALE:
                fault = _telling_replay(rng, fault, choices, count // scenario.steps)
        else:
            rank = rng.randrange(scenario.group_size)
            index = rng.randrange(footprint.effects[rank])
            duration_ns = rng.choice(_durations_ns(scenario.timeout_ns))
            detail = duration_ns if kind is FaultKind.PAUSE else 0
            fault = Fault(kind, rank, index, detail=detail)
        plan.setdefault((fault.rank, fault.peer, fault.index), fault)
    return tuple(plan.values())


def _telling_replay(
    rng: random.Random, fault: Fault, choices: list[Fault], messages_per_step: int
) -> Fault:
    """Prefer replays that differ in one field only: the generation, or the step."""
    telling = [choice for choice in choices if choice.detail == -1]
    same_place = fault.index - messages_per_step
    telling += [choice for choice in choices if choice.detail == same_place >= 0]
    return rng.choice([fault, *telling])
