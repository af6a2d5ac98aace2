"""Timelines written by the product from constructed spans: a ring of three, and a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmlf.benchmark.files import write_json
from dmlf.training.timeline import COMMUNICATION, COMPUTATION, Span

MICRO = 1e-6


def message(phase: str, step: int, round_: int, src: int, dst: int, t: float) -> list[Any]:
    """Both spans of a message that is sent at `t` (microseconds) and arrives 30 later."""
    detail = f"step {step} bucket 0 round {round_}"
    return [
        (src, Span(COMMUNICATION, f"send {phase}", t * MICRO, (t + 5) * MICRO, detail, src, dst)),
        (
            dst,
            Span(
                COMMUNICATION, f"wait for {phase}", (t - 2) * MICRO, (t + 30) * MICRO, detail, src,
                dst,
            ),
        ),
    ]  # fmt: skip


def work(rank: int, name: str, start: float, end: float, detail: str = "") -> tuple[int, Span]:
    lane = COMMUNICATION if detail else COMPUTATION
    return rank, Span(lane, name, start * MICRO, end * MICRO, detail)


def ring_step(step: int, begin: float, compute: float) -> list[tuple[int, Span]]:
    """A step of three ranks from `begin`, of which `compute` is forward and backward."""
    spans, ready = [], begin + 10 + compute
    for rank in range(3):
        spans += [
            work(rank, "draw samples", begin, begin + 10),
            work(rank, "forward and backward", begin + 10, ready - 5),
            work(rank, "gradient", ready - 5, ready, f"step {step} bucket 0"),
        ]
    for number, (phase, round_) in enumerate(
        [("reduce_scatter", 0), ("reduce_scatter", 1), ("all_gather", 0), ("all_gather", 1)]
    ):
        for rank in range(3):
            at = ready + 50 * number + 3 * rank
            spans += message(phase, step, round_, rank, (rank + 1) % 3, at)
    for rank in range(3):
        spans.append(work(rank, "optimizer", ready + 260, ready + 280 + rank, f"step {step}"))
    return spans


def server_step(step: int, begin: float) -> list[tuple[int, Span]]:
    """A step of two workers and a server, rank 2."""
    spans = []
    for rank in range(2):
        spans += [
            work(rank, "draw samples", begin, begin + 10),
            work(rank, "forward and backward", begin + 10, begin + 100 + 40 * rank),
            work(rank, "gradient", begin + 140, begin + 145, f"step {step} bucket 0"),
            *message("push", step, 0, rank, 2, begin + 150 + 10 * rank),
            *message("commit", step, 0, 2, rank, begin + 260 + rank),
            *message("pull", step, 0, 2, rank, begin + 300 + rank),
            work(rank, "write parameters", begin + 340, begin + 350, "bucket 0"),
        ]
    spans += [
        work(2, "optimizer", begin + 220, begin + 250, f"step {step}"),
        work(2, "read parameters", begin + 290, begin + 299, "bucket 0"),
    ]
    return spans


def events(spans: list[tuple[int, Span]], servers: int = 0) -> dict[str, Any]:
    """The document that `timeline_file` writes of these spans."""
    from dmlf.benchmark.timeline_file import _rank_events

    ranks = sorted({rank for rank, _ in spans})
    workers = len(ranks) - servers
    found = []
    for rank in ranks:
        own = sorted((s for r, s in spans if r == rank), key=lambda s: s.start_s)
        found += list(_rank_events(rank, "worker" if rank < workers else "server", own, 0.0))
    strategy = "parameter_server-queue" if servers else "ring-queue"
    other = {"strategy": strategy, "reduction": "float32", "world_size": workers}
    return {"displayTimeUnit": "ms", "otherData": other, "traceEvents": found}


def write_ring(path: Path) -> Path:
    """Three steps: the first short, the second the shorter of the others."""
    spans = [*ring_step(0, 0, 10), *ring_step(1, 1000, 300), *ring_step(2, 3000, 900)]
    write_json(path, events(spans))
    return path


def write_server(path: Path) -> Path:
    write_json(path, events([*server_step(0, 0), *server_step(1, 1000)], servers=1))
    return path
