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
    """Records the first `num_steps` steps of one rank.

    clock_s: what to add to this rank's clock to get that of rank 0.
    """

    def __init__(self, rank: int, num_steps: int, clock_s: float = 0.0) -> None:
        self.spans: list[Span] = []
        self._clock_s = clock_s
        self._rank = rank
        self._num_steps = num_steps
        self._recording = num_steps > 0

    def begin_step(self, step: int) -> None:
        """Stop recording after the last step that was asked for."""
        self._recording = step < self._num_steps

    def computed(self, name: str, start_s: float, end_s: float) -> None:
        """Record a part of this rank's own work."""
        if self._recording:
            ahead = self._clock_s
            self.spans.append(Span(COMPUTATION, name, start_s + ahead, end_s + ahead))

    def observe(self, effect: Effect, start_s: float, end_s: float) -> None:
        """Record an effect; `dmlf.runtime.Driver` calls it."""
        if self._recording:
            name, detail, src, dst = _describe(effect, self._rank)
            ahead = self._clock_s
            self.spans.append(
                Span(COMMUNICATION, name, start_s + ahead, end_s + ahead, detail, src, dst)
            )


def _describe(effect: Effect, rank: int) -> tuple[str, str, int | None, int | None]:
    """Name, detail, src and dst of a span."""
    match effect:
        case Send(dst=dst, tag=tag):
            return f"send {tag.phase}", _detail(tag), rank, dst
        case Recv(src=src, tag=tag):
            return f"wait for {tag.phase}", _detail(tag), src, rank
        case Gradient(step=step, bucket=bucket):
            return "gradient", f"step {step} bucket {bucket}", None, None
        case Apply(step=step):
            return "optimizer", f"step {step}", None, None
        case ReadParameters(bucket=bucket):
            return "read parameters", f"bucket {bucket}", None, None
        case WriteParameters(bucket=bucket):
            return "write parameters", f"bucket {bucket}", None, None


def _detail(tag: Tag) -> str:
    return f"step {tag.step} bucket {tag.bucket} round {tag.round}"
