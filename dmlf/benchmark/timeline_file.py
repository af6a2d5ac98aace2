"""A run's timeline as a Chrome trace, which https://ui.perfetto.dev and chrome://tracing open.

One process per rank, with a thread for computation and one for communication; an arrow from the
sending of each message to the end of the wait for it. Times are microseconds from the first span.

Source: "Trace Event Format", the Chromium project; kinds X (complete), M (metadata), s and f
(flow).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmlf.benchmark.files import write_json
from dmlf.errors import ConfigError
from dmlf.training.result import RunResult
from dmlf.training.timeline import COMMUNICATION, COMPUTATION, Span

NAME = "timeline.json"
_LANES = {COMPUTATION: 0, COMMUNICATION: 1}


def write_timeline(path: Path, result: RunResult) -> None:
    """Write the spans of all ranks of `result`. Raises ConfigError if none were recorded."""
    write_json(path, trace(result))


def trace(result: RunResult) -> dict[str, Any]:
    """The trace of `result`, as JSON-ready plain values."""
    starts = [span.start_s for rank in result.ranks for span in rank.timeline]
    if not starts:
        raise ConfigError("timeline", 0, "a number of steps: nothing was recorded in this run")
    events = [
        event
        for report in result.ranks
        for event in _rank_events(report.rank, report.role, report.timeline, min(starts))
    ]
    config = result.config
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "strategy": config.strategy,
            "reduction": config.reduction,
            "world_size": config.world_size,
            "config_sha256": config.sha256(),
        },
        "traceEvents": events,
    }


def _rank_events(rank: int, role: str, spans: Any, origin_s: float) -> Iterator[dict[str, Any]]:
    yield _named("process_name", rank, 0, f"rank {rank} ({role})")
    for lane, thread in _LANES.items():
        yield _named("thread_name", rank, thread, lane)
    for values in spans:
        yield from _span_events(rank, Span(*values), origin_s)


def _span_events(rank: int, span: Span, origin_s: float) -> Iterator[dict[str, Any]]:
    place = {"pid": rank, "tid": _LANES[span.lane], "cat": span.lane}
    start_us, end_us = (1e6 * (moment - origin_s) for moment in (span.start_s, span.end_s))
    arguments: dict[str, Any] = {"detail": span.detail} if span.detail else {}
    if span.src is not None:
        arguments |= {"src": span.src, "dst": span.dst}
    yield {
        "ph": "X",
        "name": span.name,
        "ts": start_us,
        "dur": end_us - start_us,
        "args": arguments,
        **place,
    }
    if span.src is None:
        return
    phase = span.name.rpartition(" ")[2]
    message = f"{phase} {span.detail} {span.src}>{span.dst}"
    arrow = {"name": "message", "id": message, **place, "cat": "message"}
    if span.src == rank:
        yield {"ph": "s", "ts": start_us, **arrow}
    else:
        yield {"ph": "f", "bp": "e", "ts": end_us, **arrow}


def _named(kind: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": rank, "tid": thread, "args": {"name": name}}
