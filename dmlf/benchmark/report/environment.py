"""What the runs ran on, and what they computed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from dmlf.benchmark.report.counts import kinds
from dmlf.benchmark.report.markdown import code, escape, table
from dmlf.benchmark.report.material import Material
from dmlf.benchmark.table import RunRow

_MACHINE = (
    ("processor", "cpu_model"),
    ("logical cores", "logical_cores"),
    ("cores that the runs may use", "affinity_cores"),
    ("memory", "memory_bytes"),
    ("platform", "platform"),
    ("kernel", "kernel"),
    ("virtualization", "virtualization"),
    ("frequency governor", "governor"),
    ("Python", "python"),
    ("torch", "torch"),
    ("torch threads in a rank", "torch_threads"),
    ("numpy", "numpy"),
    ("dmlf", "dmlf_version"),
    ("sources (SHA-256)", "source_sha256"),
    ("pinned dependencies (SHA-256)", "constraints_sha256"),
    ("commit", "git_commit"),
)


def section(material: Material) -> Iterator[str]:
    """The machine, the software and the workloads."""
    yield "## Environment"
    yield environment(material.table.runs)


def environment(runs: Sequence[RunRow]) -> str:
    """One table of the machine, one of the workload for each task; values of all completed runs."""
    completed = [run for run in runs if run.status == "completed"]
    if not completed:
        return "No run completed, so no environment was recorded."
    rows = [[name, _values(completed, column)] for name, column in _MACHINE]
    parts = [table(("machine and software", "value"), rows)]
    for task in dict.fromkeys(run.task for run in completed):
        workloads = dict.fromkeys(run.workload for run in completed if run.task == task)
        for workload in workloads:
            own = [run for run in completed if run.workload == workload and run.task == task]
            parts.append(_workload(task, workload or "{}", own))
    return "\n\n".join(parts)


def _values(runs: Sequence[RunRow], column: str) -> str:
    values = dict.fromkeys(getattr(run, column) for run in runs)
    return " / ".join(_shown(column, value) for value in values)


def _shown(column: str, value: object) -> str:
    if value is None:
        return "not known"
    if column == "memory_bytes" and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    if column.endswith("sha256") or column == "git_commit":
        return code(str(value)[:12])
    return escape(str(value))


def _workload(task: str, workload: str, runs: Sequence[RunRow]) -> str:
    mapping = json.loads(workload)
    rows = [
        [escape(key.replace("_", " ")), escape(json.dumps(value).strip('"'))]
        for key, value in mapping.items()
        if key != "task" and value not in ({}, None)
    ]
    title = f"workload of {escape(task)} ({kinds(runs)})"
    return table((title, "value"), rows)
