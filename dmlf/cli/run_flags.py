"""Command-line flags for the fields of a `RunConfig`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from dmlf.config import MODELS, OPTIMIZERS, REDUCTIONS, UNSYNCHRONIZED, RunConfig
from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.tasks import TASKS
from dmlf.training.torchrun import started_by_torchrun, world_size_of_group
from dmlf.transport import TRANSPORTS

_FIXED_TRANSPORTS = {"serial": "none", UNSYNCHRONIZED: "none", "ddp": "gloo"}
_HELP = {
    "task": f"what to train: {', '.join(TASKS)}, or your own module:function",
    "model": f"model of a shipped task: {', '.join(MODELS)}",
    "hidden_sizes": "sizes of the MLP's hidden layers",
    "algorithm": f"serial, {', '.join(registry())}, native (the all-reduce of torch.distributed), "
    "ddp (stock torch, for comparison), or unsynchronized (ranks that exchange nothing: a ceiling "
    "for speed, no training result)",
    "transport": f"how messages travel: {', '.join(TRANSPORTS)}; none for serial and "
    "unsynchronized, gloo for ddp (default: queue, or the only one there is)",
    "reduction": f"how gradients are added: {' or '.join(REDUCTIONS)}; exact gives the same bits "
    "at every world size up to --num-shards",
    "world_size": "number of workers (default: 1, or as many as torchrun has started)",
    "num_servers": "server processes that share the parameters, each with buckets of its own; "
    "for an algorithm with servers",
    "num_shards": "logical shards of a step, the same at every world size; the largest world size "
    "possible",
    "global_batch_size": "samples per step over all workers; a multiple of --num-shards",
    "epochs": "passes over the training data",
    "max_steps": "stop after this many steps",
    "optimizer": " or ".join(OPTIMIZERS),
    "learning_rate": "step size",
    "momentum": "momentum of sgd",
    "weight_decay": "weight decay",
    "bucket_cap_bytes": "gradients are synchronised in buckets of at most this many bytes",
    "overlap": "synchronise each bucket while backward still computes the next ones; the same "
    "bits either way",
    "seed": "decides initial parameters, sample order and all randomness",
    "rep": "number of the repeat; only recorded",
    "warmup_steps": "first steps, trained but not timed",
    "threads_per_rank": "threads of each worker's linear algebra",
    "emulate_latency_s": "let every message take this much longer, as on a slower network",
    "emulate_bandwidth_bits_per_s": "give every rank an emulated port of this bandwidth each way; "
    "0 for no limit",
    "timeout_s": "seconds that a worker waits for a message before it gives up",
    "data_dir": "folder of downloaded data sets",
}


_TRANSPORTS = {"serial": "none", "ddp": "gloo", "native": "process_group"}


def add_run_flags(parser: argparse.ArgumentParser, leave_out: tuple[str, ...] = ()) -> None:
    """Add one flag per field, with the defaults of `RunConfig`."""
    group = parser.add_argument_group("the run")
    for item in fields(RunConfig):
        if item.name in leave_out or item.name not in _HELP:
            continue
        options: dict[str, Any] = {"default": item.default, "help": _HELP[item.name]}
        if item.name == "hidden_sizes":
            options |= {"type": int, "nargs": "*", "metavar": "N"}
        elif isinstance(item.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif item.name == "max_steps":
            options |= {"type": int, "metavar": "N"}
        elif isinstance(item.default, str):
            options |= {"metavar": "NAME"}
        else:
            options |= {"type": type(item.default), "metavar": "N"}
        if item.name in ("transport", "world_size"):
            options["default"] = None
        group.add_argument(f"--{item.name.replace('_', '-')}", **options)
    if "task_options" not in leave_out:
        group.add_argument(
            "--task-option",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="an option of the task; may be given several times",
        )


def run_config(parsed: argparse.Namespace) -> RunConfig:
    """Build the configuration that the flags describe. Raises ConfigError."""
    values = {
        item.name: getattr(parsed, item.name)
        for item in fields(RunConfig)
        if hasattr(parsed, item.name)
    }
    if values.get("transport") is None:
        values["transport"] = _FIXED_TRANSPORTS.get(values["algorithm"], "queue")
    if values.get("world_size") is None:
        torchrun = started_by_torchrun(values["transport"])
        values["world_size"] = (
            world_size_of_group(values["algorithm"], values["num_servers"]) if torchrun else 1
        )
    if hasattr(parsed, "task_option"):
        values["task_options"] = dict(map(_task_option, parsed.task_option))
    return RunConfig(**values)


def _task_option(text: str) -> tuple[str, int | float | str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError("task_option", text, "KEY=VALUE")
    for number in (int, float):
        try:
            return key, number(value)
        except ValueError:
            continue
    return key, value
