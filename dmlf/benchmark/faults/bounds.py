"""How long a fault may go unseen, and its group take to stop: what a run is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmlf.runtime.faults import FaultKind, FaultSpec

AT_ONCE_S = 2.0
"""For what shows by itself: a death, an end of a connection, a message that is not the next one."""
MARGIN_S = 1.0
"""How much longer than the timeout of an operation its end may take."""
SLACK_S = 2.0
"""Added where that timeout counts: processes of a busy machine run late."""
_SILENT = (FaultKind.STOP, FaultKind.DELAY, FaultKind.DROP, FaultKind.MUTE)
"""Kinds that only silence tells of."""


def too_late(
    faults: Sequence[FaultSpec],
    struck: Mapping[int, float],
    recoveries: Sequence[Mapping[str, Any]],
    timeout_s: float,
    grace_s: float,
) -> str | None:
    """What has taken longer than it may, in words; None if nothing has.

    struck: when, by number of the fault. A flipped bit is not timed: it shows when replicas are
    compared.
    """
    for event in recoveries:
        causes = {
            number: spec
            for number, spec in enumerate(faults)
            if spec.generation == event["generation"] and number in struck
        }
        silent = any(spec.kind in _SILENT for spec in causes.values())
        patience_s = timeout_s + MARGIN_S + SLACK_S
        allowed_s = patience_s if silent else AT_ONCE_S
        for number, spec in causes.items():
            took_s = event["detected_s"] - struck[number]
            if spec.kind is not FaultKind.FLIP and took_s > allowed_s:
                return f"{spec} was seen after {took_s:.2f} s, not within {allowed_s:g} s"
        allowed_s = max(patience_s, grace_s + SLACK_S) if silent else AT_ONCE_S
        if event["stopping_s"] > allowed_s:
            took = f"{event['stopping_s']:.2f} s, not {allowed_s:g} s"
            return f"generation {event['generation']} took {took} to stop"
    return None
