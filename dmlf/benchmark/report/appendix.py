"""What a reader looks up: every claim, every run, and the words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from dmlf.benchmark.claims import Judged
from dmlf.benchmark.cohorts import Cohort
from dmlf.benchmark.faults.statements import Statement, statements
from dmlf.benchmark.report.markdown import bullets, code, count, details, escape, table
from dmlf.benchmark.report.material import Material, Places
from dmlf.benchmark.statistics import significant
from dmlf.benchmark.table import RunRow

_WORDS = {
    "strategy": "an algorithm with the way its messages travel: `ring-queue` is the ring over "
    "queues between processes.",
    "serial": "training in one process without communication: the baseline.",
    "rank, world size": "the number of one worker, and the number of workers that train together.",
    "shard": "a fixed piece of every global batch. A step always has the same shards; workers own "
    "blocks of them, so that the world size does not change what is computed.",
    "global batch": "the samples of one step of all workers.",
    "parameter server": "one process that owns the parameters, or several that own a part each: "
    "workers push gradients to it, it adds them, takes the optimizer's step, and workers pull the "
    "new parameters.",
    "ring": "workers in a circle that pass pieces of the gradient to their neighbour until every "
    "worker has the sum (ring all-reduce); there is no server.",
    "two_shot": "every worker adds up one piece of all workers' gradients, and hands the sum to "
    "all of them (two-shot all-reduce): the additions of the ring, in two rounds.",
    "ddp": "PyTorch's own DistributedDataParallel, here over Gloo: the peer to compare with.",
    "ceiling": "the throughput of ranks that compute and step at the same time and exchange "
    "nothing (`unsynchronized`): what synchronisation that costs nothing would reach.",
    "reduction": "how gradients are added. float32 adds in a published order that depends on the "
    "world size; exact gives the same bits in any order.",
    "strong and weak scaling": "what more workers do when the global batch stays the same, and "
    "when each worker's part of it does, so that the global batch grows.",
    "target accuracy": "99 % of the test accuracy that serial training of the same seed ends with.",
    "contaminated": "measured while another measured run had the machine too.",
    "loaded": "measured while other processes took more than a tenth of the cores' time.",
    "oversubscribed": "more processes want to compute than there are cores, so they take turns.",
    "95 % interval": "a range around the median, found by resampling the runs; ranges found so are "
    "meant to hold the true median in 95 of 100 experiments. With few runs they are rough.",
    "not distinguishable": "the interval of the ratio holds 1: these runs do not show a "
    "difference. It does not mean that there is none.",
}


def claims_section(material: Material) -> Iterator[str]:
    """Every claim, as data."""
    yield "## All claims"
    yield all_claims(material.judged, material.places, statements(material.faults))


def runs_section(material: Material) -> Iterator[str]:
    """Every planned run."""
    yield "## All runs"
    yield all_runs(material.table.runs)


def words_section(material: Material) -> Iterator[str]:
    """The words that are not plain English."""
    yield "## Words"
    yield glossary()


def all_claims(
    judged: Sequence[tuple[Cohort, Sequence[Judged]]],
    places: Places,
    on_faults: Sequence[Statement] = (),
) -> str:
    """Every claim with its outcome and the command that rebuilds its evidence."""
    rows = [
        [
            escape(cohort.label),
            escape(item.claim.tested),
            str(item.outcome),
            escape(item.text),
            code(item.command(places.figures, places.report)),
        ]
        for cohort, claims in judged
        for item in claims
    ]
    rows += [
        ["faults", escape(item.tested), str(item.outcome), escape(item.text), code(item.rebuild)]
        for item in on_faults
    ]
    if not rows:
        return "No claim was asked for: no run was planned."
    header = ("task", "claim tested", "outcome", "found", "rebuild")
    return details(f"{count(len(rows), 'claim')} with outcomes", table(header, rows))


def all_runs(runs: Sequence[RunRow]) -> str:
    """Every planned run with its numbers and the command that makes it."""
    header = (
        "run",
        "status",
        "check",
        "final state",
        "samples/s",
        "step (ms)",
        "accuracy",
        "warnings",
    )
    rows = [
        [
            code(f"snakemake {shlex.quote(run.path)}"),
            run.status,
            run.check if run.status == "completed" else "",
            code((run.final_state_sha256 or "")[:12]) if run.final_state_sha256 else "",
            _number(run.throughput_samples_per_s),
            _number(None if run.step_time_s is None else 1e3 * run.step_time_s),
            "" if run.test_accuracy is None else f"{100 * run.test_accuracy:.2f} %",
            str(run.warnings or ""),
        ]
        for run in runs
    ]
    if not rows:
        return "No run was planned."
    return (
        "The first column is the command that makes the run; it does nothing while the run is up "
        "to date (`--force` repeats it). Bare `snakemake` makes everything.\n\n"
        + details(count(len(rows), "run"), table(header, rows, right=(4, 5, 6, 7)))
    )


def _number(value: float | None) -> str:
    return "" if value is None else significant(value, 4)


def glossary() -> str:
    """The few words that a reader needs."""
    return bullets([f"**{word}**: {meaning}" for word, meaning in _WORDS.items()])
