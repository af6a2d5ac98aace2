"""What one rank did when: spans on two lanes, computation and communication."""

from __future__ import annotations

from typing import NamedTuple

from dmlf.protocol import (
    Apply,
    Effect,
    Gradient,
    ReadParameters,
    Recv,
    Send,
    Tag,
    WriteParameters,
)

COMPUTATION = "computation"
COMMUNICATION = "communication"


class Span(NamedTuple):
    """Something that took from `start_s` to `end_s`, in seconds on CLOCK_MONOTONIC.

    `src` and `dst` are set for a message: both of its spans, of sending and of waiting for it,
    have the same `src`, `dst` and `detail`.
    """

    lane: str
    name: str
    start_s: float
    end_s: float
    detail: str = ""
    src: int | None = None
    dst: int | None = None


class Timeline:
    """Records the first `num_steps` steps of one rank."""

    def __init__(self, rank: int, num_steps: int) -> None:
        self.spans: list[Span] = []
        self._rank = rank
        self._num_steps = num_steps
        self._recording = num_steps > 0

    def begin_step(self, step: int) -> None:
        """Stop recording after the last step that was asked for."""
        self._recording = step < self._num_steps

    def computed(self, name: str, start_s: float, end_s: float) -> None:
        """Record a part of this rank's own work."""
        if self._recording:
            self.spans.append(Span(COMPUTATION, name, start_s, end_s))

    def observe(self, effect: Effect, start_s: float, end_s: float) -> None:
        """Record an effect; `dmlf.runtime.Driver` calls it."""
        if self._recording:
            self.spans.append(Span(COMMUNICATION, *_name(effect, start_s, end_s, self._rank)))


def _name(
    effect: Effect, start_s: float, end_s: float, rank: int
) -> tuple[str, float, float, str, int | None, int | None]:
    match effect:
        case Send(dst=dst, tag=tag):
            return f"send {tag.phase}", start_s, end_s, _detail(tag), rank, dst
        case Recv(src=src, tag=tag):
            return f"wait for {tag.phase}", start_s, end_s, _detail(tag), src, rank
        case Gradient(step=step, bucket=bucket):
            name, detail = "gradient", f"step {step} bucket {bucket}"
        case Apply(step=step):
            name, detail = "optimizer", f"step {step}"
        case ReadParameters(bucket=bucket):
            name, detail = "read parameters", f"bucket {bucket}"
        case WriteParameters(bucket=bucket):
            name, detail = "write parameters", f"bucket {bucket}"
    return name, start_s, end_s, detail, None, None


def _detail(tag: Tag) -> str:
    return f"step {tag.step} bucket {tag.bucket} round {tag.round}"
