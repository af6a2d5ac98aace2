"""Is this metrics file what it claims to be?

`metrics.schema.json` says which fields there are and what each may hold. Here is also what needs
several fields at once: every rank is there, lists have one entry per step, and each summary
equals what the raw samples give, so that no number can part from its evidence.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from dmlf.benchmark.elastic import world_sizes
from dmlf.benchmark.steps import StepSummary, summarise_steps
from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DependencyMissing, MetricsError
from dmlf.protocol import registry

# Summaries are recomputed in the same order from the same floats; the slack is for other builds.
_RELATIVE_TOLERANCE = 1e-6

# What the schema's definitions say of one sample, for the quick look at long lists of them.
_SAMPLES: Mapping[str, tuple[tuple[type, ...], float]] = {
    "#/$defs/seconds": ((int, float), 1e12),
    "#/$defs/count": ((int,), 1 << 60),
}


def validate(metrics: Any, path: str) -> RunConfig:
    """Check a metrics document and return its configuration.

    `path` is only named in errors. Raises MetricsError with the field that is wrong, and
    DependencyMissing without the jsonschema package.
    """
    for field, problem in _schema_problems(metrics):
        raise MetricsError(path, field, problem)
    try:
        config = RunConfig.from_mapping(metrics["config"])
    except (ConfigError, TypeError, ValueError) as error:
        raise MetricsError(path, "config", str(error)) from error
    if metrics["config"] != config.as_mapping():
        raise MetricsError(path, "config", "does not list every key of a run's configuration")
    for field, problem in _contradictions(metrics, config):
        raise MetricsError(path, field, problem)
    return config


def _schema_problems(metrics: Any) -> Iterator[tuple[str, str]]:
    for error in _validator().iter_errors(metrics):
        field = ".".join(str(part) for part in error.absolute_path) or "document"
        yield field, error.message if len(error.message) <= 200 else f"{error.message[:200]}..."


@cache
def _validator() -> Any:
    try:
        import jsonschema
    except ImportError as error:
        raise DependencyMissing("jsonschema", str(error), 'pip install "dmlf"') from error
    schema = json.loads(resources.files(__package__).joinpath("metrics.schema.json").read_text())
    base = jsonschema.Draft202012Validator
    check_items = base.VALIDATORS["items"]

    def items(validator: Any, subschema: Any, instance: Any, parent: Any) -> Iterator[Any]:
        # Lists of samples are long: look at them in one pass, and item by item only on failure.
        kind = subschema.get("$ref") if isinstance(subschema, dict) else None
        if kind is not None and kind in _SAMPLES and isinstance(instance, list):
            types, limit = _SAMPLES[kind]
            if all(type(value) in types and 0 <= value <= limit for value in instance):
                return
        yield from check_items(validator, subschema, instance, parent)

    def is_number(checker: Any, value: Any) -> bool:
        # JSON has integers that no float holds, with which nothing can be computed.
        number: bool = base.TYPE_CHECKER.is_type(value, "number")
        return number and abs(value) <= sys.float_info.max

    extend: Any = jsonschema.validators.extend
    types = base.TYPE_CHECKER.redefine("number", is_number)
    return extend(base, {"items": items}, type_checker=types)(schema)


def _contradictions(metrics: Mapping[str, Any], config: RunConfig) -> Iterator[tuple[str, str]]:
    recorded = metrics["provenance"]["config_sha256"]
    if recorded != config.sha256():
        yield "provenance.config_sha256", "is not the hash of the configuration in this file"
    if metrics["seeds"]["seed"] != config.seed:
        yield "seeds.seed", f"is {metrics['seeds']['seed']}, but config.seed is {config.seed}"
    if metrics["timing"]["warmup_steps"] != config.warmup_steps:
        yield "timing.warmup_steps", f"differs from config.warmup_steps ({config.warmup_steps})"
    yield from _membership_problems(metrics, config)
    yield from _rank_problems(metrics, config)
    yield from _summary_problems(metrics, config)
    yield from _correctness_problems(metrics)


def _membership_problems(
    metrics: Mapping[str, Any], config: RunConfig
) -> Iterator[tuple[str, str]]:
    if "membership" not in metrics:
        return
    membership, where = metrics["membership"], "membership.generations"
    least, most = membership["min_workers"], membership["max_workers"]
    if not least <= config.world_size <= most <= config.num_shards:
        yield "membership", f"{least} to {most} workers do not fit world_size and num_shards"
    members: set[int] = set()
    for entry in membership["generations"]:
        # A worker that has left, or was lost, is not to be seen again; a new one has joined.
        gone = {*entry["left"], *entry["lost"]}
        members = (members - gone) | set(entry["joined"])
        workers = entry["workers"]
        if len(set(workers)) != len(workers) or not set(workers) <= members:
            yield where, f"generation {entry['generation']} has workers that have not joined"
        if len(workers) != entry["world_size"] or not least <= len(workers) <= most:
            yield where, f"generation {entry['generation']} has {len(workers)} workers"


def _rank_problems(metrics: Mapping[str, Any], config: RunConfig) -> Iterator[tuple[str, str]]:
    per_rank: Sequence[Mapping[str, Any]] = metrics["timing"]["per_rank"]
    steps = len(metrics["convergence"]["step_loss"])
    workers = sorted(entry["rank"] for entry in per_rank if entry["role"] == "worker")
    world_size = world_sizes(metrics, config)[-1]
    expected = list(range(world_size))
    if workers != expected:
        missing = sorted(set(expected) - set(workers))
        problem = f"lacks the ranks {missing}" if missing else f"has the workers {workers}"
        yield "timing.per_rank", f"{problem}; world_size {world_size} needs each rank once"
    servers = [entry["rank"] for entry in per_rank if entry["role"] == "server"]
    if len(set(servers)) != len(servers) or any(rank < world_size for rank in servers):
        yield "timing.per_rank", f"has the servers {servers}; servers follow the workers"
    algorithm = registry().get(config.algorithm)
    needed = algorithm.server_count(config.num_servers) if algorithm else 0
    if len(servers) != needed:
        yield "timing.per_rank", f"has {len(servers)} servers; its configuration needs {needed}"
    for entry in per_rank:
        lists = {"start_s": entry["start_s"], "samples": entry["samples"]}
        lists |= {"step_s": entry["step_s"], **entry["phases"]}
        for name, values in lists.items():
            # A server handles no samples of its own and may leave lists empty.
            if len(values) != steps and (entry["role"] == "worker" or values):
                where = f"timing.per_rank[rank {entry['rank']}].{name}"
                yield where, f"has {len(values)} entries for {steps} steps"
    hashed = sorted(int(rank) for rank in metrics["correctness"]["parameters_sha256_by_rank"])
    present = sorted(entry["rank"] for entry in per_rank)
    # Of several servers none has all parameters, unless it happens to own all buckets.
    whole = set(workers if len(servers) > 1 else present)
    if not whole <= set(hashed) <= set(present):
        where = "correctness.parameters_sha256_by_rank"
        yield where, f"has the ranks {hashed}, but timing.per_rank has {present}"
    if len(per_rank) != metrics["timing"]["processes"]:
        yield "timing.processes", f"is not the number of ranks ({len(per_rank)})"
    epochs = [entry["epoch"] for entry in metrics["convergence"]["epochs"]]
    if epochs != sorted(set(epochs)):
        yield "convergence.epochs", f"are not in increasing order: {epochs[:20]}"


def _summary_problems(metrics: Mapping[str, Any], config: RunConfig) -> Iterator[tuple[str, str]]:
    timing = metrics["timing"]
    summary = summarise_steps(timing["per_rank"], config)
    if summary is None:
        speeds = (metrics["throughput_samples_per_s"], metrics["step_time_s"])
        recovered = metrics.get("recovery", {}).get("restarts", 0)
        if timing["first_step"] == 0 and not recovered:
            yield "timing.per_rank", "has no full-size step after warm-up, so nothing was measured"
        elif timing["measured_steps"] or timing["step_time_s"] or any(speeds):
            yield "timing.measured_steps", "a speed is stated, but the samples have no such step"
        return
    if timing["step_time_s"] is None or None in (
        metrics["throughput_samples_per_s"],
        metrics["step_time_s"],
    ):
        yield "step_time_s", "is null, but the samples have full-size steps after warm-up"
        return
    if timing["measured_steps"] != summary.measured_steps:
        problem = f"is {timing['measured_steps']}, the samples have {summary.measured_steps}"
        yield "timing.measured_steps", problem
    for field, recorded, raw in _summaries(metrics, config, summary):
        if not math.isclose(recorded, raw, rel_tol=_RELATIVE_TOLERANCE, abs_tol=1e-12):
            yield field, f"is {recorded:g}, but the raw samples give {raw:g}"


def _summaries(
    metrics: Mapping[str, Any], config: RunConfig, summary: StepSummary
) -> Iterator[tuple[str, float, float]]:
    statistics = summary.statistics()
    for name, raw in statistics.items():
        yield f"timing.step_time_s.{name}", metrics["timing"]["step_time_s"][name], raw
    yield "step_time_s", metrics["step_time_s"], statistics["median"]
    throughput = config.global_batch_size / max(statistics["median"], 1e-300)
    yield "throughput_samples_per_s", metrics["throughput_samples_per_s"], throughput
    exposed = metrics["communication"]["exposed_fraction"]
    yield "communication.exposed_fraction", exposed, summary.exposed_fraction


def _correctness_problems(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    correctness, traffic = metrics["correctness"], metrics["communication"]
    different = len(set(correctness["parameters_sha256_by_rank"].values())) > 1
    if correctness["replicas_identical"] and different:
        yield "correctness.replicas_identical", "is true, but the ranks' hashes differ"
    for name in ("messages", "payload_bytes"):
        measured, theory = traffic[name], traffic[f"theoretical_{name}"]
        known = measured is not None and theory is not None
        if correctness["traffic_matches_theory"] and (not known or measured != theory):
            where = "correctness.traffic_matches_theory"
            yield where, f"is true, but {name} is {measured} and in theory {theory}"
