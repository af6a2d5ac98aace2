"""From one valid metrics file to its rows, its cohort, and the replay that it is held against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from dmlf.benchmark.checks import CEILING, PASSED, Evidence, Verdict
from dmlf.benchmark.elastic import resized
from dmlf.benchmark.files import read_json
from dmlf.benchmark.layout import ResultPath
from dmlf.benchmark.steps import summarise_steps
from dmlf.benchmark.table import STRONG, WEAK, EpochRow, RunRow
from dmlf.config import RunConfig, canonical_json
from dmlf.errors import ConfigError, MetricsError

# What the experiment varies on purpose, and what does not decide the result.
_VARIED = frozenset(
    {"algorithm", "transport", "reduction", "world_size", "num_servers", "seed", "rep"}
)
_IRRELEVANT = frozenset({"data_dir", "timeout_s"})

# What makes two machines different for a measurement. Kernel builds and memory are reported only.
_MACHINE = (
    "python",
    "implementation",
    "cpu_model",
    "logical_cores",
    "affinity_cores",
    "torch",
    "numpy",
)


def workload(config: RunConfig) -> dict[str, Any]:
    """The part of a configuration that all compared runs share: model, data, optimizer, steps."""
    mapping = config.as_mapping()
    return {k: v for k, v in mapping.items() if k not in _VARIED | _IRRELEVANT}


def experiment(samples_per_rank: int | None) -> str:
    """Strong scaling keeps the global batch, weak scaling each rank's part of it."""
    return STRONG if samples_per_rank is None else WEAK


def _shared(config: RunConfig, samples_per_rank: int | None) -> dict[str, Any]:
    """The workload that the points of one scaling experiment share."""
    shared = workload(config)
    if samples_per_rank is not None:
        del shared["global_batch_size"]
        shared["samples_per_rank"] = samples_per_rank
    return shared


def contestant_name(config: RunConfig) -> str:
    """The strategy as tables and figures name it: more servers than one make another contestant."""
    servers = f", {config.num_servers} servers" if config.num_servers > 1 else ""
    return f"{config.strategy}{servers}"


def short_cohort(metrics: Mapping[str, Any], config: RunConfig) -> str:
    """Name what must be equal for two runs to be compared: workload, sources, pins, machine."""
    return _cohort(metrics, workload(config))


def _cohort(metrics: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    provenance = metrics["provenance"]
    sources = [provenance["source_sha256"], provenance["constraints_sha256"]]
    sources += _plugged(provenance, "task")  # of strategies' own, each row has its own
    return _sha256([shared, sources, _machine(metrics)])[:12]


def _plugged(provenance: Mapping[str, Any], *kinds: str) -> list[str]:
    """The hashes of the plug-ins of these kinds that a run used."""
    plugins = provenance.get("plugins", [])
    return [str(item["sha256"]) for item in plugins if item["kind"] in kinds]


def _machine(metrics: Mapping[str, Any]) -> list[Any]:
    return [metrics["environment"][name] for name in _MACHINE]


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def reference_state(
    path: str | None, metrics: Mapping[str, Any], config: RunConfig
) -> tuple[str | None, str]:
    """Return the replay's final state for a run, or None and why there is none to be trusted.

    A replay of other sources or of another configuration proves nothing, so it is not used. The
    transport and the number of servers may differ: neither changes the order of additions.
    """
    if path is None:
        return None, "no serial replay was planned to compare with"
    try:
        reference = read_json(path)
        if not isinstance(reference, dict) or reference.get("schema_version") != 1:
            return None, "the serial replay's file has no schema_version 1"
        stands_for = RunConfig.from_mapping(reference["config"])
        state = reference["final_state_sha256"]
        source = reference["provenance"]["source_sha256"]
        replayed_plugins = _plugged(reference["provenance"], "task", "algorithm")
    except FileNotFoundError:
        return None, "the serial replay to compare with is missing"
    except (MetricsError, ConfigError, OSError, KeyError, TypeError, ValueError) as error:
        return None, f"the serial replay's file is not valid: {error}"
    if not isinstance(state, str) or len(state) != 64:
        return None, "the serial replay's final_state_sha256 is not a hash"
    if _replayed(stands_for) != _replayed(config):
        return None, "the serial replay is of another configuration"
    if source != metrics["provenance"]["source_sha256"]:
        return None, "the serial replay is of other sources"
    if replayed_plugins != _plugged(metrics["provenance"], "task", "algorithm"):
        return None, "the serial replay is of another version of a plug-in"
    return state, ""


def _replayed(config: RunConfig) -> dict[str, Any]:
    ignored = _IRRELEVANT | {"transport", "num_servers", "rep"}
    return {k: v for k, v in config.as_mapping().items() if k not in ignored}


def completed_row(
    result: ResultPath,
    metrics: Mapping[str, Any],
    config: RunConfig,
    evidence: Evidence,
    verdict: Verdict,
    samples_per_rank: int | None = None,
) -> RunRow:
    """One row of runs.csv. Speeds are left out unless the check passed, or of a ceiling; and of a
    run with another number of workers than it stands for.

    Its task is that of the path: the name under which the workflow's configuration has it.
    """
    timing, traffic = metrics["timing"], metrics["communication"]
    steps = len(metrics["convergence"]["step_loss"])
    epochs = metrics["convergence"]["epochs"]
    provenance, environment = metrics["provenance"], metrics["environment"]
    shared = _shared(config, samples_per_rank)
    measures = verdict.check in (PASSED, CEILING) and not evidence.resized
    speeds = _speeds(metrics, config) if measures else {}
    environment_columns = {
        name: environment[name] for name in RunRow.__dataclass_fields__ if name in environment
    }
    return RunRow(
        path=result.path,
        task=result.task,
        strategy=contestant_name(config),
        algorithm=config.algorithm,
        transport=config.transport,
        reduction=config.reduction,
        world_size=config.world_size,
        num_servers=config.num_servers,
        seed=config.seed,
        rep=config.rep,
        status="completed",
        experiment=experiment(samples_per_rank),
        samples_per_rank=samples_per_rank,
        check=verdict.check,
        check_detail=verdict.detail,
        final_state_sha256=metrics["final_state_sha256"],
        reference_sha256=evidence.reference_sha256,
        test_accuracy=metrics["test_accuracy"],
        final_test_loss=epochs[-1]["test_loss"] if epochs else None,
        **speeds,
        phase_source=timing["phase_source"],
        measured_steps=timing["measured_steps"],
        train_samples=_train_samples(metrics, config),
        payload_bytes_per_step=_per_step(traffic["payload_bytes"], steps),
        theoretical_payload_bytes_per_step=_per_step(traffic["theoretical_payload_bytes"], steps),
        messages_per_step=_per_step(traffic["messages"], steps),
        processes=timing["processes"],
        threads_per_rank=config.threads_per_rank,
        oversubscribed=timing["oversubscribed"],
        load_before_1m=environment["load_before"][0],
        load_after_1m=environment["load_after"][0],
        warnings=len(timing["warnings"]),
        warning_texts="; ".join(timing["warnings"]) or None,
        cohort=_cohort(metrics, shared),
        workload=canonical_json(shared).decode(),
        workload_sha256=_sha256(shared),
        machine_sha256=_sha256(_machine(metrics)),
        config_sha256=provenance["config_sha256"],
        source_sha256=provenance["source_sha256"],
        constraints_sha256=provenance["constraints_sha256"],
        git_commit=provenance["git_commit"],
        git_dirty=provenance["git_dirty"],
        dmlf_version=provenance["dmlf_version"],
        started_at=provenance["started_at"],
        finished_at=provenance["finished_at"],
        lock_wait_s=timing["lock_wait_s"],
        others_cpu_share=timing.get("others_cpu_share"),
        **environment_columns,
    )


def _speeds(metrics: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    per_rank = metrics["timing"]["per_rank"]
    summary = summarise_steps(per_rank, config)
    if summary is None:
        return {}
    return {
        "throughput_samples_per_s": metrics["throughput_samples_per_s"],
        "step_time_s": metrics["step_time_s"],
        **summary.phase_s,
        "exposed_fraction": metrics["communication"]["exposed_fraction"],
        "waiting_fraction": summary.waiting_fraction,
    }


def _train_samples(metrics: Mapping[str, Any], config: RunConfig) -> int | None:
    """Samples of one epoch; None of a run that did not do all of its epochs, or some twice."""
    undone = config.max_steps is not None or metrics["timing"]["first_step"] > 0
    if undone or metrics.get("recovery", {}).get("restarts") or resized(metrics, config):
        return None
    per_rank = metrics["timing"]["per_rank"]
    return int(sum(sum(rank["samples"]) for rank in per_rank) // config.epochs)


def _per_step(total: int | None, steps: int) -> float | None:
    return None if total is None or not steps else total / steps


def epoch_rows(row: RunRow, metrics: Mapping[str, Any]) -> list[EpochRow]:
    """The rows of epochs.csv for a completed run."""
    timed = row.check == PASSED and row.contaminated_by is None
    timed = timed and not resized(metrics, RunConfig.from_mapping(metrics["config"]))
    return [
        EpochRow(
            path=row.path,
            task=row.task,
            cohort=row.cohort or "",
            strategy=row.strategy,
            reduction=row.reduction,
            world_size=row.world_size,
            seed=row.seed,
            rep=row.rep,
            check=row.check,
            epoch=entry["epoch"],
            train_loss=entry["train_loss"],
            test_loss=entry["test_loss"],
            test_accuracy=entry["test_accuracy"],
            elapsed_s=entry["elapsed_s"] if timed else None,
        )
        for entry in metrics["convergence"]["epochs"]
    ]
