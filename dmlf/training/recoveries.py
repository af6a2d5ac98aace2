"""What a run recovered from and who took part in it: plain values for metrics, lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dmlf.runtime.history import Generation, Incident


def recovery_of(incident: Incident) -> dict[str, Any]:
    """The entry of `recovery.events` in a metrics file.

    detected_s is a moment on CLOCK_MONOTONIC; stopping_s and recovery_s last from it until every
    rank had stopped or was gone, and until the group trained again.
    """
    stopped_s, resumed_s = incident.stopped_s, incident.resumed_s
    return {
        "generation": incident.generation,
        "rank": incident.rank,
        "cause": type(incident.cause).__name__,
        "detail": str(incident.cause),
        "replaced": sorted(incident.replaced),
        "step": incident.step,
        "source": incident.source,
        "detected_s": incident.detected_s,
        "stopping_s": None if stopped_s is None else stopped_s - incident.detected_s,
        "recovery_s": None if resumed_s is None else resumed_s - incident.detected_s,
    }


def generation_of(generation: Generation) -> dict[str, Any]:
    """The entry of `membership.generations` in a metrics file.

    Members go by number. change_s: how long the group did not train for it.
    """
    ended_s, resumed_s = generation.ended_s, generation.resumed_s
    return {
        "generation": generation.number,
        "world_size": len(generation.workers),
        "workers": list(generation.workers),
        "joined": list(generation.joined),
        "left": list(generation.left),
        "lost": list(generation.lost),
        "step": generation.step,
        "source": generation.source,
        "change_s": None if ended_s is None or resumed_s is None else resumed_s - ended_s,
    }


def describe(generation: Generation, mended: Sequence[Incident]) -> list[str]:
    """Lines about a generation that trains now, and the failures that it mends."""
    lines = []
    for incident in mended:
        lost = ", ".join(f"rank {rank}" for rank in sorted(incident.lost)) or "none"
        replaced = ", ".join(f"rank {rank}" for rank in sorted(incident.replaced)) or "none"
        lines.append(
            f"generation {incident.generation} ended: {incident.cause}; "
            f"lost: {lost}; replaced: {replaced}"
        )
    changes = [
        f"{len(members)} {what}"
        for members, what in (
            (generation.joined, "joined"),
            (generation.left, "left"),
            (generation.lost, "lost"),
        )
        if members
    ]
    took_s = (generation.resumed_s or 0.0) - (generation.ended_s or 0.0)
    workers = len(generation.workers)
    lines.append(
        f"generation {generation.number}: {workers} worker{'s' * (workers != 1)} "
        f"({', '.join(changes) or 'the same'}), going on after step {generation.step}, "
        f"from {generation.source}, {took_s:.2f} s later"
    )
    return lines
