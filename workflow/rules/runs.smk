# From the configuration to runs: which are planned, the flags that each one is started with, and
# the order in which they are measured.
import hashlib
import itertools
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

from dmlf.config import UNSYNCHRONIZED, RunConfig, split_strategy
from dmlf.errors import ConfigError, PluginError
from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS


def run_config(run):
    """Resolve what a path says, with the settings of its task, to a full configuration."""
    algorithm, transport = split_strategy(run.strategy)
    settings = {"task": run.task, **config["tasks"][run.task], **config["run"]}
    samples_per_rank = settings.pop("samples_per_rank", None)
    if samples_per_rank is not None:  # weak scaling: the global batch grows with the world size
        settings["global_batch_size"] = samples_per_rank * int(run.world_size)
    if algorithm not in registry() or not registry()[algorithm].has_servers:
        settings.pop("num_servers", None)  # the task's other strategies know no servers
    if algorithm not in registry():
        # Nor is a link imposed on what dmlf does not carry.
        settings.pop("emulate_latency_s", None)
        settings.pop("emulate_bandwidth_bits_per_s", None)
    return RunConfig(
        **settings,
        algorithm=algorithm,
        transport=transport,
        reduction=run.reduction,
        world_size=int(run.world_size),
        seed=int(run.seed),
        rep=int(run.rep),
    )


def task_config(task):
    """Resolve a task's settings alone."""
    return run_config(
        SimpleNamespace(
            task=task, strategy="serial", reduction="float32", world_size=1, seed=0, rep=0
        )
    )


def option_words(task_options):
    return [f"--task-option={name}={value}" for name, value in sorted(task_options.items())]


def flags(run):
    """The command-line flags of a run as one text, which any change of a value changes.

    The time limit is left out: it decides whether a run ends, not what it computes. The rules
    hand it on as a resource, which reruns nothing.
    """
    try:
        values = run_config(run).as_mapping()
    except (ConfigError, PluginError) as error:
        refuse(["tasks", run.task], f"{error} (asked for by {RUN.format(**vars(run))})")
    del values["timeout_s"]
    words = option_words(values.pop("task_options"))
    for field, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{field.replace('_', '-')}")
        elif value is not None:
            words.append(f"--{field.replace('_', '-')}")
            words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def num_processes(run):
    """Workers and servers of a run: as many processes as its group has."""
    config = run_config(run)
    algorithm = registry().get(config.algorithm)
    return config.world_size + (algorithm.server_count(config.num_servers) if algorithm else 0)


def replay_flags(wildcards):
    """Flags of the runs that a replay stands for: the first repeat, over any one transport."""
    strategy = f"{wildcards.algorithm}-{next(iter(TRANSPORTS))}"
    return flags(SimpleNamespace(**vars(run_of(wildcards)), strategy=strategy, rep=0))


def data_flags(wildcards):
    """The flags that decide a task's data."""
    settings = task_config(wildcards.task)
    words = ["--task", settings.task, "--data-dir", settings.data_dir]
    return shlex.join(words + option_words(settings.task_options))


def measuring_priority(wildcards):
    """Repeats outermost, shuffled within: drift of the machine then spreads over all strategies."""
    key = f"{config['order_seed']}:{RUN.format(**wildcards)}"
    shuffled = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6]) / 2**48
    return round(1 / (1 + int(wildcards.rep) + shuffled), 9)


def planned_runs():
    """Expand the matrix in the order of the configuration, each run once."""
    runs = {}
    for index, block in enumerate(config["matrix"]):
        for key, known in (("tasks", list(config["tasks"])), ("strategies", STRATEGIES)):
            for name in block[key]:
                if name not in known:
                    refuse(
                        ["matrix", index, key],
                        f"{name!r} is not allowed; expected one of {', '.join(known)}",
                    )
        for task, strategy, reduction, world_size, seed, rep in itertools.product(
            block["tasks"],
            block["strategies"],
            block["reductions"],
            block["world_sizes"],
            block["seeds"],
            range(block["repeats"]),
        ):
            if strategy in ("ddp-gloo", UNSYNCHRONIZED) and reduction != "float32":
                continue  # stock DDP adds floats and has no other mode; a ceiling adds nothing
            run = SimpleNamespace(
                task=task,
                strategy=strategy,
                reduction=reduction,
                world_size=1 if strategy == "serial" else world_size,
                seed=seed,
                rep=rep,
            )
            runs.setdefault(METRICS_PATH.format(**vars(run)), run)
    return list(runs.values())


def skip_reason(run):
    num_shards = task_config(run.task).num_shards
    if run.world_size > num_shards:
        return (
            f"world_size {run.world_size} exceeds num_shards ({num_shards}): a rank needs a shard"
        )
    return None


def reference_path(run):
    """The replay that a protocol's float32 run must equal bit for bit.

    Exact runs are held against the serial exact run, which is a run of its own.
    """
    if run.strategy not in PROTOCOL_STRATEGIES or run.reduction == "exact":
        return None
    algorithm, _ = split_strategy(run.strategy)
    return REFERENCE_PATH.format(**vars(run), algorithm=algorithm)


def expected_json():
    """What the table is gathered from: every planned run, its reference, why it is skipped."""
    entries = []
    for run in PLANNED:
        skipped = skip_reason(run)
        reference = None if skipped else reference_path(run)
        path = METRICS_PATH.format(**vars(run))
        entry = {
            "path": path,
            "reference": reference,
            "skipped": skipped,
            "samples_per_rank": config["tasks"][run.task].get("samples_per_rank"),
        }
        entries.append(json.dumps(entry))
    return "[\n" + ",\n".join(entries) + "\n]"


def found_results(wildcards):
    """A text that changes whenever a result or failure of a planned run comes, goes or changes."""
    found = []
    for run in PLANNED:
        for name in ("metrics.json", "failure.json"):
            path = Path(METRICS_PATH.format(**vars(run))).with_name(name)
            if path.exists():
                found.append(f"{path} {path.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


for _task, _settings in config["tasks"].items():
    if {"samples_per_rank", "global_batch_size"} <= _settings.keys():
        refuse(["tasks", _task], "has global_batch_size and samples_per_rank; keep one")
    try:
        task_config(_task)
    except ConfigError as _error:
        refuse(["tasks", _task], _error)

PLANNED = planned_runs()
RUNS = [run for run in PLANNED if skip_reason(run) is None]
METRICS = [METRICS_PATH.format(**vars(run)) for run in RUNS]
REFERENCES = list(dict.fromkeys(filter(None, map(reference_path, RUNS))))
