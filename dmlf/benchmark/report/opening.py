"""What the report is about: the question, and the task behind it, before any result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from dmlf.benchmark.cohorts import Cohort
from dmlf.benchmark.report.counts import kinds
from dmlf.benchmark.report.markdown import bullets, code, count, escape, listing
from dmlf.benchmark.report.material import Material


def section(material: Material) -> Iterator[str]:
    """The question, what was trained, and how to read the numbers."""
    runs = material.table.runs
    tasks = len({cohort.task for cohort in material.cohorts})
    yield (
        "One model is trained on one data set in several ways: by one process alone (*serial*), "
        "and by several processes that exchange gradients after every step. This report compares "
        "the ways: first whether they compute the same, then how fast they do. "
        f"It was generated from {count(len(runs), 'planned run')} of {count(tasks, 'task')} "
        f"({kinds(runs)}); every sentence with a number is computed from them. "
        "Words that are not plain English are explained under [Words](#words)."
    )
    tasks_done = [line for cohort in material.cohorts for line in _task(cohort)]
    if tasks_done:
        cores = sorted({run.affinity_cores for run in runs if run.affinity_cores is not None})
        where = f" on {listing([str(c) for c in cores])} cores" if cores else ""
        yield (
            f"What was trained:\n\n{bullets(tasks_done)}\n\nRead ratios, not absolute speed: "
            f"the speeds are those of this task{where}, and another machine has others."
        )


def _task(cohort: Cohort) -> Iterator[str]:
    """One line on a cohort's workload; none where nothing completed."""
    if not cohort.completed:
        return
    workload: dict[str, Any] = json.loads(cohort.completed[0].workload or "{}")
    parts = []
    if "model" in workload:
        layers = "-".join(map(str, workload.get("hidden_sizes") or ()))
        parts.append(f"model {code(str(workload['model']))}{f' ({layers} hidden)' * bool(layers)}")
    trained_on = _range([run.train_samples for run in cohort.completed])
    if trained_on:
        parts.append(f"{trained_on} training samples")
    if cohort.runs[0].samples_per_rank is not None:
        parts.append(f"steps of {cohort.runs[0].samples_per_rank:,} samples on each rank")
    elif "global_batch_size" in workload:
        parts.append(f"steps of {workload['global_batch_size']:,} samples (the global batch)")
    if "optimizer" in workload and "epochs" in workload:
        parts.append(
            f"{escape(str(workload['optimizer']))} for {count(workload['epochs'], 'epoch')}"
        )
    steps = _range([run.measured_steps for run in cohort.completed])
    if steps:
        parts.append(f"the speed of a run is that of its {steps} measured steps, by their median")
    if parts:
        yield f"**{escape(cohort.label)}**: {'; '.join(parts)}."


def _range(values: Sequence[int | None]) -> str:
    """`55`, `30 to 55`, or nothing where none is known."""
    known = sorted({value for value in values if value is not None})
    return " to ".join(f"{value:,}" for value in dict.fromkeys([*known[:1], *known[-1:]]))
