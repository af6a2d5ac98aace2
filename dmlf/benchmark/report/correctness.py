"""Which runs ended where they must, and which did not end at all."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from dmlf.benchmark.cohorts import Cohort, Contestant
from dmlf.benchmark.report.markdown import code, count, escape, table
from dmlf.benchmark.report.material import Material
from dmlf.benchmark.table import RunRow

_MEANING = """\
Every run ends with a fingerprint (SHA-256) of all parameters and of the optimizer's state: equal \
fingerprints mean equal bits. A float32 run must end exactly where a serial replay ends that adds \
the gradients in the order that the algorithm publishes; an exact run must end where the serial \
exact run of the same seed ends, whatever the world size; serial must end at the same place every \
time. The protocols must also have sent exactly the bytes and messages that theory gives. Stock \
`ddp` publishes no order of addition, so its first losses are compared with serial's instead. \
Runs `unsynchronized` are no training results and not among these: their ranks exchange nothing, \
and their speed is only a ceiling to hold the others against. \
**A speed is shown in this report only for runs that passed.**"""


def section(material: Material) -> Iterator[str]:
    """What was compared with what, before any speed."""
    yield "## Correctness"
    yield correctness(material.cohorts)


def not_completed_section(material: Material) -> Iterator[str]:
    """Which runs are in no number of the report."""
    yield "## Failed, skipped and missing runs"
    yield not_completed(material.table.runs)


def correctness(parts: Sequence[Cohort]) -> str:
    """The table of strategy x world size: fingerprints and verdicts, before any speed."""
    rows = []
    for cohort in parts:
        for contestant in cohort.contestants():
            for seed in sorted({run.seed for run in _runs(cohort, contestant)}):
                rows.append(_row(cohort, contestant, seed))
    if not any(cohort.completed for cohort in parts):
        return f"{_MEANING}\n\nNo run completed, so there is nothing to check."
    header = (
        "task",
        "strategy",
        "reduction",
        "world size",
        "seed",
        "runs",
        "final state",
        "check",
        "compared with, and found",
    )
    return f"{_MEANING}\n\n{table(header, rows, right=(3, 4, 5))}"


def _runs(cohort: Cohort, contestant: Contestant) -> list[RunRow]:
    return [
        run
        for run in cohort.completed
        if Contestant(run.strategy, run.reduction, run.world_size) == contestant
    ]


def _row(cohort: Cohort, contestant: Contestant, seed: int) -> list[str]:
    runs = [run for run in _runs(cohort, contestant) if run.seed == seed]
    states = list(dict.fromkeys((run.final_state_sha256 or "")[:12] for run in runs))
    shown = ", ".join(code(state) for state in states[:3])
    verdicts = [run.check for run in runs]
    check = ", ".join(
        name if verdicts.count(name) == len(runs) else f"{verdicts.count(name)} {name}"
        for name in ("passed", "failed", "absent")
        if name in verdicts
    )
    found = dict.fromkeys(run.check_detail for run in runs)
    return [
        escape(cohort.label),
        code(contestant.strategy),
        contestant.reduction,
        str(contestant.world_size),
        str(seed),
        str(len(runs)),
        shown if len(states) <= 3 else f"{shown} and {len(states) - 3} more",
        check if check == "passed" else f"**{check}**",
        "; ".join(escape(detail) for detail in found),
    ]


def not_completed(runs: Sequence[RunRow]) -> str:
    """Every planned run that gave no valid metrics, with its reason and command."""
    absent = [run for run in runs if run.status != "completed"]
    if not absent:
        return f"None: all {count(len(runs), 'planned run')} completed."
    rows = [
        [run.status, escape(run.reason or ""), code(f"snakemake {shlex.quote(run.path)}")]
        for run in absent
    ]
    return (
        f"{count(len(absent), 'planned run')} of {len(runs)} gave no valid metrics and "
        f"{'is' if len(absent) == 1 else 'are'} in no number of this report.\n\n"
        + table(("status", "reason", "run it again"), rows)
    )
