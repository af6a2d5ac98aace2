"""What a run recovered from, as plain values for its metrics and as a line for people."""

from __future__ import annotations

from typing import Any

from dmlf.runtime.membership import Incident


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


def describe(incident: Incident) -> str:
    """One line about a recovery."""
    replaced = ", ".join(f"rank {rank}" for rank in sorted(incident.replaced)) or "none"
    took_s = 0.0 if incident.resumed_s is None else incident.resumed_s - incident.detected_s
    return (
        f"generation {incident.generation} ended: {incident.cause}; replaced: {replaced}; "
        f"going on after step {incident.step}, from {incident.source}, {took_s:.2f} s later"
    )
