"""Which runs ended where they must, and which did not end at all."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from dmlf.benchmark.checks import PASSED
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
    """Which runs are in no number of the report; nothing where there are none."""
    if any(run.status != "completed" for run in material.table.runs):
        yield "## Failed, skipped and missing runs"
        yield not_completed(material.table.runs)


def correctness(parts: Sequence[Cohort]) -> str:
    """A row for every distinct final state and verdict: who ended there."""
    rows = []
    for cohort in parts:
        order = {contestant: place for place, contestant in enumerate(cohort.contestants())}
        groups: dict[tuple[str, int, str | None, str], list[RunRow]] = {}
        for run in sorted(cohort.completed, key=lambda run: order[contestant_of(run)]):
            state = (run.reduction, run.seed, run.final_state_sha256, run.check)
            groups.setdefault(state, []).append(run)
        rows += [_row(cohort, runs) for runs in groups.values()]
    if not any(cohort.completed for cohort in parts):
        return f"{_MEANING}\n\nNo run completed, so there is nothing to check."
    header = (
        "task",
        "reduction",
        "seed",
        "final state",
        "reached by (at world size)",
        "runs",
        "check",
        "compared with, and found",
    )
    return f"{_MEANING}\n\n{table(header, rows, right=(2, 5))}"


def contestant_of(run: RunRow) -> Contestant:
    """Whose run it is."""
    return Contestant(run.strategy, run.reduction, run.world_size)


def _row(cohort: Cohort, runs: Sequence[RunRow]) -> list[str]:
    sizes: dict[str, list[str]] = {}
    for run in runs:
        own = sizes.setdefault(run.strategy, [])
        if str(run.world_size) not in own:
            own.append(str(run.world_size))
    return [
        escape(cohort.label),
        runs[0].reduction,
        str(runs[0].seed),
        code((runs[0].final_state_sha256 or "")[:12]),
        ", ".join(f"{code(strategy)} ({', '.join(found)})" for strategy, found in sizes.items()),
        str(len(runs)),
        "passed" if runs[0].check == PASSED else f"**{runs[0].check}**",
        "; ".join(escape(detail) for detail in dict.fromkeys(run.check_detail for run in runs)),
    ]


def not_completed(runs: Sequence[RunRow]) -> str:
    """Every planned run that gave no valid metrics, with its reason and command."""
    absent = [run for run in runs if run.status != "completed"]
    rows = [
        [run.status, escape(run.reason or ""), code(f"snakemake {shlex.quote(run.path)}")]
        for run in absent
    ]
    return (
        f"{count(len(absent), 'planned run')} of {len(runs)} gave no valid metrics and "
        f"{'is' if len(absent) == 1 else 'are'} in no number of this report.\n\n"
        + table(("status", "reason", "run it again"), rows)
    )
