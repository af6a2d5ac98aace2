"""What a finished run hands to whoever writes about it: one report per rank, and the frame."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dmlf.config import RunConfig
from dmlf.training.state import RankState, merge_states
from dmlf.training.timeline import Span
from dmlf.training.transcript import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RankReport:
    """What one rank measured and where it ended; every list has one entry per step it did.

    `first_step` is the first of these: not 0 in a run that went on from a checkpoint. `completed`
    says whether the run's last step was reached, and not stopped before by a signal.
    `role` is `worker` or `server`. Times are seconds on CLOCK_MONOTONIC; `wait_s` is the part of
    `communication_s` spent blocked in a receive, `hidden_s` the part during which this rank still
    computed. `loss_sum` is summed over the rank's samples. `peak_memory_bytes` is the most that the
    process had resident at once, pages that it shares with others included.
    `theoretical_*` is the closed form for all ranks together, told by rank 0 and 0 elsewhere.
    `state` is what the rank held at the end: a server its own part, a worker of servers no
    optimizer. What was not counted (`messages_sent` of ddp) is None. `epochs` holds the entries of
    `convergence.epochs` on the rank that evaluates and is empty elsewhere. `transcript` holds one
    record per step, `timeline` the spans of the first steps, where they were asked for.
    """

    rank: int
    role: str
    first_step: int = 0
    completed: bool = True
    initial_state_sha256: str
    state: RankState
    start_s: Sequence[float]
    step_s: Sequence[float]
    samples: Sequence[int]
    data_s: Sequence[float]
    forward_backward_s: Sequence[float]
    communication_s: Sequence[float]
    wait_s: Sequence[float]
    hidden_s: Sequence[float]
    optimizer_s: Sequence[float]
    loss_sum: Sequence[float]
    messages_sent: int | None
    payload_bytes_sent: int | None
    theoretical_messages: int | None
    theoretical_payload_bytes: int | None
    epochs: Sequence[Mapping[str, Any]]
    torch_threads: int | None
    peak_memory_bytes: int | None = None
    transcript: Sequence[Mapping[str, Mapping[str, str]]] = ()
    timeline: Sequence[Span] = ()


def report_to_json(report: RankReport) -> str:
    """A report as text, to travel between hosts."""
    return json.dumps(asdict(report))


def report_from_json(text: str) -> RankReport:
    """The report that `report_to_json` wrote."""
    values = json.loads(text)
    values["state"] = RankState(**values["state"])
    values["timeline"] = [Span(*span) for span in values["timeline"]]
    return RankReport(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A completed run: its configuration, every rank's report, and the launcher's times in s.

    `launch_s` is from the request to the first step, `lock_wait_s` the wait for the host-wide
    measuring lock, `load_*` the load averages over 1, 5 and 15 minutes, `others_cpu_share` the part
    of the cores' time that others took meanwhile (None: not known). `recoveries` and
    `membership` (None where nobody supervised the run): see `dmlf.training.recoveries`; after a
    change, the reports are those of the last generation. `transcript`: see
    `dmlf.training.transcript`; of all generations, empty where none was asked for.
    """

    config: RunConfig
    ranks: Sequence[RankReport]
    started_at: datetime
    finished_at: datetime
    launch_s: float
    total_s: float
    lock_wait_s: float
    load_before: Sequence[float]
    load_after: Sequence[float]
    others_cpu_share: float | None = None
    recoveries: Sequence[Mapping[str, Any]] = ()
    membership: Mapping[str, Any] | None = None
    transcript: Sequence[Record] = ()

    @property
    def world_size(self) -> int:
        """How many workers the run ended with."""
        if self.membership is None:
            return self.config.world_size
        return int(self.membership["generations"][-1]["world_size"])

    def final_state(self) -> RankState:
        """Parameters and optimizer of all ranks together; the run's one hash is its `sha256()`.

        Of ranks that never synchronise it is rank 0's, and no result of training.
        Raises ReplicaDivergence if ranks contradict each other or a part is missing.
        """
        if not self.config.synchronous:
            return self.ranks[0].state
        return merge_states([report.state for report in self.ranks])
