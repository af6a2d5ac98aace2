"""One whole step out of a timeline file: what every rank did, and which message went where.

The file is what `dmlf train --timeline` writes (see `timeline_file`). Of the steps in it the
shortest is taken, the one that the machine disturbed least; the first, which pays for start-up,
and steps beside an evaluation are left out where others remain.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmlf.benchmark.files import read_json
from dmlf.errors import MetricsError
from dmlf.training.timeline import COMPUTATION

_STEP = re.compile(r"step (\d{1,12})(?: bucket \d+ round (\d{1,12}))?")
_RANK = re.compile(r"rank (\d{1,6}) \((worker|server)\)")
# These end a step and name none of their own.
_CLOSING = ("read parameters", "write parameters")
_MAX_EVENTS = 200_000


@dataclass(frozen=True, slots=True)
class Lane:
    """One rank and its role, worker or server."""

    rank: int
    role: str


@dataclass(frozen=True, slots=True)
class Activity:
    """Something that `rank` did from `start_us` to `end_us`, in microseconds from the step's start.

    A message's two activities, of sending and of waiting for it, have its `phase`, `round`, `src`
    and `dst`.
    """

    rank: int
    name: str
    start_us: float
    end_us: float
    phase: str | None = None
    round: int | None = None
    src: int | None = None
    dst: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the begin of its sending to the end of the wait for it."""

    phase: str
    round: int
    src: int
    dst: int
    start_us: float
    end_us: float


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step of a run of `strategy`; activities by rank and time, messages by time."""

    strategy: str
    world_size: int
    step: int
    candidates: int
    lanes: tuple[Lane, ...]
    activities: tuple[Activity, ...]
    messages: tuple[Message, ...]

    @property
    def duration_us(self) -> float:
        """From the first activity to the end of the last."""
        return max(activity.end_us for activity in self.activities)


@dataclass(frozen=True, slots=True)
class _Span:
    """An event of the file; `step` is None where it names none."""

    rank: int
    name: str
    start_us: float
    end_us: float
    computation: bool
    step: int | None
    round: int | None
    src: int | None
    dst: int | None


def read_step(path: str | Path) -> RecordedStep:
    """Read the least disturbed step of a timeline file.

    Raises MetricsError, naming the path, when the file is absent, not such, or holds no step with
    messages.
    """
    name = str(path)
    try:
        document = read_json(path)
    except FileNotFoundError:
        raise MetricsError(name, "file", "does not exist; train with --timeline") from None
    try:
        other = document["otherData"]
        strategy, world_size = other["strategy"], other["world_size"]
        events = document["traceEvents"]
        if not isinstance(strategy, str) or type(world_size) is not int:
            raise TypeError("strategy must be text, world_size an integer")
        if len(events) > _MAX_EVENTS:
            raise ValueError(f"{len(events)} events; at most {_MAX_EVENTS} are read")
        lanes = tuple(_lanes(events))
        spans = [_span(event) for event in events if event["ph"] == "X"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise MetricsError(name, "content", f"is not a timeline of dmlf: {error}") from error
    if not {span.rank for span in spans} <= {lane.rank for lane in lanes}:
        raise MetricsError(name, "content", "has events of ranks that it does not name")
    found = _steps(spans, lanes)
    if not found:
        raise MetricsError(name, "traceEvents", "hold no step with messages on every rank")
    steps = found[1:] or found
    least = min(steps, key=lambda step: step[1][-1].end_us - step[1][0].start_us)
    return _recorded(strategy, world_size, least, len(steps), lanes)


def _lanes(events: Sequence[Any]) -> Iterator[Lane]:
    for event in events:
        if event["ph"] == "M" and event["name"] == "process_name":
            match = _RANK.fullmatch(event["args"]["name"])
            if match is None:
                raise ValueError(f"{event['args']['name']!r:.80} is not a rank with its role")
            yield Lane(int(match[1]), match[2])


def _span(event: Any) -> _Span:
    start_us, duration_us = float(event["ts"]), float(event["dur"])
    if not (math.isfinite(start_us) and 0 <= duration_us < math.inf):
        raise ValueError("times must be finite and durations not negative")
    arguments = event["args"]
    match = _STEP.match(str(arguments.get("detail", "")))
    src, dst = arguments.get("src"), arguments.get("dst")
    if (src is None) != (dst is None) or not all(type(r) in (int, type(None)) for r in (src, dst)):
        raise TypeError("src and dst must be two integers or absent")
    return _Span(
        rank=int(event["pid"]),
        name=str(event["name"]),
        start_us=start_us,
        end_us=start_us + duration_us,
        computation=event["cat"] == COMPUTATION,
        step=None if match is None else int(match[1]),
        round=None if match is None or match[2] is None else int(match[2]),
        src=src,
        dst=dst,
    )


def _steps(spans: Sequence[_Span], lanes: Sequence[Lane]) -> list[tuple[int, list[_Span]]]:
    """Every step that is whole on every rank, its spans by time."""
    steps: dict[int, list[_Span]] = {}
    disturbed = set()
    for lane in lanes:
        own = sorted((s for s in spans if s.rank == lane.rank), key=lambda s: s.start_us)
        current: int | None = None
        ahead: list[_Span] = []
        for span in own:
            if span.name in _CLOSING and current is not None:
                steps[current].append(span)
            elif span.step is None:
                ahead.append(span)  # it belongs to the step that comes next
            else:
                if any(other.name == "evaluate" for other in ahead):
                    disturbed.add(span.step)
                steps.setdefault(span.step, []).extend([*ahead, span])
                current, ahead = span.step, []
    ranks = {lane.rank for lane in lanes}
    whole = {
        step: sorted(found, key=lambda s: s.start_us)
        for step, found in steps.items()
        if {s.rank for s in found if s.src is not None} == ranks
    }
    calm = {step: found for step, found in whole.items() if step not in disturbed}
    return sorted((calm or whole).items())


def _recorded(
    strategy: str,
    world_size: int,
    found: tuple[int, Sequence[_Span]],
    candidates: int,
    lanes: tuple[Lane, ...],
) -> RecordedStep:
    step, spans = found
    # A server waits for the next push from the moment it has answered; the step begins later.
    origin_us = min((s.start_us for s in spans if s.computation), default=spans[0].start_us)
    activities = tuple(
        Activity(
            rank=span.rank,
            name=span.name,
            start_us=max(0.0, span.start_us - origin_us),
            end_us=max(0.0, span.end_us - origin_us),
            phase=_phase(span),
            round=span.round if span.src is not None else None,
            src=span.src,
            dst=span.dst,
        )
        for span in sorted(spans, key=lambda s: (s.rank, s.start_us))
    )
    arrivals = {
        (a.phase, a.round, a.src, a.dst): a.end_us
        for a in activities
        if a.src is not None and a.rank == a.dst
    }
    messages = [
        Message(a.phase or "", a.round or 0, a.src, a.dst, a.start_us, arrivals[key])
        for a in activities
        if a.src is not None and a.dst is not None and a.rank == a.src
        for key in [(a.phase, a.round, a.src, a.dst)]
        if key in arrivals
    ]
    return RecordedStep(
        strategy,
        world_size,
        step,
        candidates,
        lanes,
        activities,
        tuple(sorted(messages, key=lambda m: m.start_us)),
    )


def _phase(span: _Span) -> str | None:
    """`push` of `wait for push`."""
    return None if span.src is None else span.name.rpartition(" ")[2]
