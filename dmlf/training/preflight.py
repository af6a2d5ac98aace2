"""What can be refused before any process starts."""

from __future__ import annotations

import importlib.util

from dmlf.config import UNSYNCHRONIZED, RunConfig
from dmlf.env import require_torch
from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.tasks.registry import resolve_task
from dmlf.tasks.task import NumpyTask
from dmlf.transport import TRANSPORTS


def preflight(config: RunConfig) -> list[str]:
    """Refuse what cannot run here; return the modules that every rank will import.

    Raises ConfigError, DependencyMissing, PluginError, and what loading a user's own task raises.
    """
    algorithms = ("serial", *registry(), "native", "ddp", UNSYNCHRONIZED)
    if config.algorithm not in algorithms:
        raise ConfigError("algorithm", config.algorithm, f"one of {', '.join(algorithms)}")
    if config.algorithm in (*registry(), "native") and config.transport not in TRANSPORTS:
        raise ConfigError("transport", config.transport, f"one of {', '.join(TRANSPORTS)}")
    # A plug-in that is broken is refused here, and not by every rank.
    registry().get(config.algorithm)
    TRANSPORTS.get(config.transport)
    has_servers = config.algorithm in registry() and registry()[config.algorithm].has_servers
    if config.num_servers != 1 and not has_servers:
        allowed = f"1 with algorithm {config.algorithm!r}, which has no servers"
        raise ConfigError("num_servers", config.num_servers, allowed)
    task = resolve_task(config)
    if isinstance(task, NumpyTask):
        if config.algorithm == "ddp":
            raise ConfigError("algorithm", "ddp", f"a dmlf algorithm: {config.task} needs no torch")
        over_torch = config.transport == "process_group"
        return ["dmlf.training.unsynchronized", *(["torch.distributed"] if over_torch else [])]
    if importlib.util.find_spec("torch") is None:
        require_torch()
    modules = ["dmlf.training.unsynchronized", "dmlf.training.torch_backend", "torch"]
    if config.algorithm == "ddp":
        modules.append("torch._dynamo")  # DDP imports it, which takes every rank over a second
    return [*modules, *task.preload]
