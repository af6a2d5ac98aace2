"""Turn a finished run into the content of its metrics.json.

Everything a reader needs to believe the numbers goes in: the whole configuration, what it ran
on, the raw samples of every rank, and the hashes that prove where the replicas ended.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from dmlf.benchmark.schema import validate
from dmlf.benchmark.steps import StepSummary, summarise_steps
from dmlf.env import AFTER_A_RUN
from dmlf.errors import ConfigError, MetricsError
from dmlf.runtime.others import OTHERS_MATTER
from dmlf.training.plugged import plugged_into
from dmlf.training.result import RankReport, RunResult
from dmlf.training.state import RankState, entries_sha256

SCHEMA_VERSION = 1
SEED_DERIVATION = (
    "every random stream is a function of the seed and of the epoch, step or shard that it "
    "serves, never of the rank or the world size"
)

# The limits of pyperf's warnings: beyond them a median of steps is not to be trusted blindly.
_MAX_RELATIVE_STDEV = 0.10
_MIN_SAMPLE_S = 1e-3


def build_metrics(
    result: RunResult, argv: Sequence[str], constraints: str | Path | None
) -> dict[str, Any]:
    """Return the metrics of a completed run, validated against the schema.

    argv: the command line that started the run. constraints: the file of pinned dependencies;
    its hash is null when there is none. Throughput is the global batch over the median, over
    full-size steps after warm-up, of the step time (see `steps`). Raises ConfigError when no
    such step is left (a run that went on from a checkpoint may have none: its speed is then null),
    MetricsError when the ranks' reports do not fit together, and
    ReplicaDivergence when their final states contradict each other.
    """
    config = result.config
    workers = [report for report in result.ranks if report.role == "worker"]
    _check_reports(result, workers)
    per_rank = [_rank_entry(report) for report in result.ranks]
    summary = summarise_steps(per_rank, config)
    went_on = workers[0].first_step > 0 or bool(result.recoveries)
    if summary is None and not went_on:
        steps = len(workers[0].step_s)
        raise ConfigError(
            "warmup_steps",
            config.warmup_steps,
            f"fewer than the {steps} steps of this run, with at least one step of all "
            f"{config.global_batch_size} samples after them; "
            "train longer (epochs, max_steps) or lower warmup_steps",
        )
    median_s = None if summary is None else summary.statistics()["median"]
    environment = _environment(result, workers)
    communication = _communication(result.ranks, summary)
    final = result.final_state()
    epochs = [dict(entry) for report in result.ranks for entry in report.epochs]
    metrics = {
        "schema_version": SCHEMA_VERSION,
        "status": "completed",
        "config": config.as_mapping(),
        "provenance": provenance(
            config,
            argv,
            constraints,
            result.started_at,
            result.finished_at,
            plugins=plugged_into(config),
        ),
        "environment": environment,
        "seeds": {"seed": config.seed, "derivation": SEED_DERIVATION},
        "timing": _timing(result, per_rank, summary, environment),
        "communication": communication,
        "convergence": {"step_loss": _step_loss(workers), "epochs": epochs},
        "recovery": {"restarts": len(result.recoveries), "events": list(result.recoveries)},
        "correctness": _correctness(result.ranks, final, communication),
        "final_state_sha256": final.sha256(),
        "test_accuracy": epochs[-1]["test_accuracy"] if epochs else None,
        "throughput_samples_per_s": None
        if median_s is None
        else config.global_batch_size / median_s,
        "step_time_s": median_s,
    }
    if result.membership is not None:
        metrics["membership"] = dict(result.membership)
    validate(metrics, "metrics of this run")
    return metrics


class Hashed(Protocol):
    """A configuration."""

    def sha256(self) -> str:
        """Hash of everything that decides the result."""


def provenance(
    config: Hashed,
    argv: Sequence[str],
    constraints: str | Path | None,
    started_at: datetime,
    finished_at: datetime,
    sources_left_out: Sequence[str] = AFTER_A_RUN,
    plugins: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the provenance block that metrics, failures, references and collectives share.

    plugins: what is not dmlf's own, whose sources `source_sha256` does not cover; the key is left
    out where there are none.
    """
    from dmlf import env

    git_commit, git_dirty = env.git_state()
    return {
        "config_sha256": config.sha256(),
        "source_sha256": env.source_sha256(sources_left_out),
        "constraints_sha256": None
        if constraints is None
        else env.constraints_sha256(Path(constraints)),
        "git_commit": git_commit,
        "git_dirty": git_dirty,
        "argv": list(argv),
        "started_at": _utc(started_at),
        "finished_at": _utc(finished_at),
        "dmlf_version": _version(),
        **({"plugins": list(plugins)} if plugins else {}),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("dmlf")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a source tree; source_sha256 says which


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _check_reports(result: RunResult, workers: Sequence[RankReport]) -> None:
    """Refuse reports that cannot be summed up before numpy or a division does so less clearly."""
    ranks = sorted(report.rank for report in workers)
    if ranks != list(range(result.world_size)):
        raise MetricsError(
            "metrics of this run",
            "timing.per_rank",
            f"has reports of the workers {ranks}; world_size is {result.world_size}",
        )
    lengths = {len(report.step_s) for report in workers} | {len(r.samples) for r in workers}
    firsts = {report.first_step for report in workers}
    if len(firsts) != 1:
        raise MetricsError(
            "metrics of this run",
            "timing.first_step",
            f"workers report different first steps: {sorted(firsts)}",
        )
    if len(lengths) != 1 or (lengths == {0} and firsts == {0}):
        raise MetricsError(
            "metrics of this run",
            "timing.per_rank",
            f"workers report different numbers of steps, or none: {sorted(lengths)}",
        )


def _rank_entry(report: RankReport) -> dict[str, Any]:
    return {
        "rank": report.rank,
        "role": report.role,
        "peak_memory_bytes": report.peak_memory_bytes,
        "start_s": list(report.start_s),
        "samples": list(report.samples),
        "step_s": list(report.step_s),
        "phases": {
            "data_s": list(report.data_s),
            "forward_backward_s": list(report.forward_backward_s),
            "communication_s": list(report.communication_s),
            "wait_s": list(report.wait_s),
            "hidden_s": list(report.hidden_s),
            "optimizer_s": list(report.optimizer_s),
        },
    }


def _environment(result: RunResult, workers: Sequence[RankReport]) -> dict[str, Any]:
    from dmlf import env

    environment = dict(env.capture_environment())
    # The launcher never computes: what its torch would use says nothing about the ranks.
    environment["torch_threads"] = workers[0].torch_threads
    environment["load_before"] = list(result.load_before)
    environment["load_after"] = list(result.load_after)
    return environment


def _timing(
    result: RunResult,
    per_rank: Sequence[Mapping[str, Any]],
    summary: StepSummary | None,
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    config = result.config
    statistics = None if summary is None else summary.statistics()
    cores = environment["affinity_cores"]
    processes = len(result.ranks)
    oversubscribed = processes * config.threads_per_rank > cores
    workers = [entry for entry in per_rank if entry["role"] == "worker"]
    warnings = []
    if statistics is None:
        warnings.append("no full-size step after warm-up: nothing was measured")
    else:
        if statistics["stdev"] > _MAX_RELATIVE_STDEV * statistics["mean"]:
            share = statistics["stdev"] / statistics["mean"]
            warnings.append(f"step times vary: standard deviation is {share:.0%} of the mean")
        if statistics["min"] < _MIN_SAMPLE_S:
            warnings.append("steps shorter than 1 ms: the clock and the scheduler weigh in")
    if result.membership is not None and len(result.membership["generations"]) > 1:
        steps = len(workers[0]["step_s"])
        warnings.append(f"of the last generation: {len(workers)} workers, {steps} steps")
    others = result.others_cpu_share
    if others is not None and others > OTHERS_MATTER:
        warnings.append(f"beside other work: others took {others:.0%} of the cores' time")
    if oversubscribed:
        threads = processes * config.threads_per_rank
        warnings.append(f"oversubscribed: {threads} compute threads on {cores} cores")
    return {
        "clock": "CLOCK_MONOTONIC",
        "warmup_steps": config.warmup_steps,
        "first_step": result.ranks[0].first_step,
        "measured_steps": 0 if summary is None else summary.measured_steps,
        "step_time_s": statistics,
        "training_s": max(sum(entry["step_s"]) for entry in workers),
        "launch_s": result.launch_s,
        "total_s": result.total_s,
        "lock_wait_s": result.lock_wait_s,
        "others_cpu_share": result.others_cpu_share,
        "processes": processes,
        "oversubscribed": oversubscribed,
        # Stock DDP communicates inside backward, where only a calibration can tell it apart.
        "phase_source": "calibrated" if config.algorithm == "ddp" else "measured",
        "warnings": warnings,
        "per_rank": list(per_rank),
    }


def _communication(ranks: Sequence[RankReport], summary: StepSummary | None) -> dict[str, Any]:
    return {
        "messages": _total([report.messages_sent for report in ranks]),
        "payload_bytes": _total([report.payload_bytes_sent for report in ranks]),
        "theoretical_messages": _total([report.theoretical_messages for report in ranks]),
        "theoretical_payload_bytes": _total([report.theoretical_payload_bytes for report in ranks]),
        "exposed_fraction": 0.0 if summary is None else summary.exposed_fraction,
    }


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _step_loss(workers: Sequence[RankReport]) -> list[float]:
    """Mean loss per step: the ranks' sums over the samples they stand for."""
    losses = zip(*(report.loss_sum for report in workers), strict=True)
    samples = zip(*(report.samples for report in workers), strict=True)
    return [sum(loss) / sum(count) for loss, count in zip(losses, samples, strict=True)]


def _correctness(
    ranks: Sequence[RankReport], final: RankState, communication: Mapping[str, Any]
) -> dict[str, Any]:
    # A server that holds a part has no hash to show here: its part was held against the whole.
    parameters = {
        str(report.rank): entries_sha256(report.state.parameters)
        for report in ranks
        if report.state.parameters.keys() == final.parameters.keys()
    }
    initial = {report.initial_state_sha256 for report in ranks}
    pairs = [
        (communication[name], communication[f"theoretical_{name}"])
        for name in ("messages", "payload_bytes")
    ]
    known = all(measured is not None and theory is not None for measured, theory in pairs)
    return {
        "initial_state_sha256": ranks[0].initial_state_sha256,
        "parameters_sha256_by_rank": parameters,
        "replicas_identical": all(
            len(hashes) == 1 for hashes in (set(parameters.values()), initial)
        ),
        "traffic_matches_theory": all(m == t for m, t in pairs) if known else None,
    }
