"""How many runs there are of which kind: counted here, so that every section says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dmlf.benchmark.report.markdown import count, listing
from dmlf.benchmark.table import STATUSES, RunRow
from dmlf.config import UNSYNCHRONIZED

_VERDICTS = ("passed", "failed", "absent")
_WORDS = {
    "passed": "passed their correctness check",
    "failed": "failed it",
    "absent": "had nothing to be compared with",
}


def kinds(runs: Sequence[RunRow]) -> str:
    """`100 training runs and 10 ceiling runs`."""
    ceilings = sum(run.algorithm == UNSYNCHRONIZED for run in runs)
    parts = [count(len(runs) - ceilings, "training run")]
    return listing([*parts, count(ceilings, "ceiling run")] if ceilings else parts)


def planned(runs: Sequence[RunRow]) -> str:
    """What was planned, what completed, and what became of the checks, in one sentence each."""
    statuses = Counter(run.status for run in runs)
    parts = [f"{statuses[name]} {name}" for name in STATUSES if statuses[name]]
    if statuses["completed"] == len(runs) > 0:
        parts = ["all completed"]
    text = f"{count(len(runs), 'planned run')} ({kinds(runs)}): {listing(parts) or 'none'}."
    completed = [run for run in runs if run.status == "completed"]
    checks = Counter(run.check for run in completed if run.algorithm != UNSYNCHRONIZED)
    if checks:
        verdicts = [f"{checks[name]} {_WORDS[name]}" for name in _VERDICTS if checks[name]]
        text += f" Of {count(sum(checks.values()), 'training run')}, {listing(verdicts)}."
    if any(run.algorithm == UNSYNCHRONIZED for run in completed):
        text += " Ceiling runs (`unsynchronized`) train nothing that could be checked."
    return text
