"""A run under supervision: what its members report, what it went through, and what it recorded."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmlf.runtime.history import Generation, Incident
from dmlf.runtime.limits import Limits
from dmlf.runtime.stop import StopSignal
from dmlf.runtime.supervisor import Members, Supervisor
from dmlf.training.recoveries import describe, generation_of, recovery_of
from dmlf.training.result import RankReport
from dmlf.training.transcript import Record, merge_step

STALL_MARGIN_S = 1.0
"""How much longer than a wait may take a rank may go without progress: who waits says it better."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has left. recoveries, membership: see `dmlf.training.recoveries`.

    trained_s: when the first generation began to train, in seconds on CLOCK_MONOTONIC.
    """

    ranks: Sequence[RankReport]
    recoveries: Sequence[Mapping[str, Any]] = ()
    membership: Mapping[str, Any] | None = None
    transcript: Sequence[Record] = ()
    trained_s: float | None = None


def supervise(
    members: Members,
    limits: Limits,
    struck: dict[int, float],
    stop: StopSignal | None = None,
) -> tuple[list[Any], Outcome]:
    """Have `members` do the run; return their reports as they came, and all else.

    struck: takes when injected faults struck, whatever happens. Raises what ended the run.
    """
    supervisor = Supervisor(members, limits, _tell)
    try:
        reports = supervisor.run(stop)
    finally:
        struck.update(supervisor.fired)
    transcript = [
        merge_step(step, (part for generation in generations for part in generation))
        for step, generations in enumerate(supervisor.records())
    ]
    membership = {
        "min_workers": limits.min_workers,
        "max_workers": limits.max_workers,
        "generations": [generation_of(one) for one in supervisor.generations],
    }
    recoveries = [recovery_of(incident) for incident in supervisor.incidents]
    trained_s = supervisor.generations[0].resumed_s
    return reports, Outcome((), recoveries, membership, transcript, trained_s)


def _tell(generation: Generation, mended: Sequence[Incident]) -> None:
    for line in describe(generation, mended):
        print(f"dmlf: {line}", file=sys.stderr, flush=True)
