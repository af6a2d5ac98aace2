"""What a message is, and what makes it the right one.

A tag names the one place in a run that a message belongs to. A receiver knows the tag that must
come next on each link, so a stale, duplicated, reordered or misdirected message is refused by
the first field in which it differs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from dmlf.errors import (
    BucketMismatch,
    GenerationMismatch,
    PhaseMismatch,
    ProtocolError,
    RoundMismatch,
    SourceMismatch,
    StepMismatch,
)


class Phase(StrEnum):
    """The part of a step that a message belongs to."""

    HANDSHAKE = "handshake"
    SCALE = "scale"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    REDUCE = "reduce"
    BROADCAST = "broadcast"
    PUSH = "push"
    PULL = "pull"
    COMMIT = "commit"
    REPLICA_CHECK = "replica_check"
    CLOCK = "clock"
    STATE_AGREEMENT = "state_agreement"
    STATE_TRANSFER = "state_transfer"
    CALL = "call"
    GATHER = "gather"
    SCATTER = "scatter"
    EXCHANGE = "exchange"
    POINT_TO_POINT = "point_to_point"


class Tag(NamedTuple):
    """Where in a run a message belongs: all fields are counted from 0; `src` is the sender."""

    generation: int
    step: int
    bucket: int
    phase: Phase
    round: int
    src: int

    def of(self, phase: Phase, round_: int, src: int) -> Tag:
        """The tag of another message about the same bucket in the same step."""
        return Tag(self.generation, self.step, self.bucket, phase, round_, src)

    def __str__(self) -> str:
        return (
            f"{self.phase} of step {self.step} bucket {self.bucket} round {self.round} "
            f"from rank {self.src} (generation {self.generation})"
        )


class Message(NamedTuple):
    """A tag and its payload (an array, or bytes for small control values)."""

    tag: Tag
    payload: Any


_MISMATCHES: tuple[tuple[str, type[ProtocolError]], ...] = (
    ("generation", GenerationMismatch),
    ("step", StepMismatch),
    ("bucket", BucketMismatch),
    ("phase", PhaseMismatch),
    ("round", RoundMismatch),
    ("src", SourceMismatch),
)


def validate(rank: int, expected: Tag, received: Tag) -> None:
    """Accept `received` only if it equals `expected` in every field.

    Raises the ProtocolError of the first field that differs, with both tags.
    """
    if received == expected:
        return
    for name, error in _MISMATCHES:
        if getattr(received, name) != getattr(expected, name):
            raise error(rank, expected, received)
