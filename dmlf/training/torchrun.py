"""A run whose processes were started by torchrun, or by an engine that sets the same variables."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, PeerLost
from dmlf.protocol import registry
from dmlf.runtime.child import signal_on_parent_death
from dmlf.runtime.launch import limit_threads
from dmlf.training.result import RankReport, report_from_json, report_to_json
from dmlf.training.worker import RankJob, run_rank
from dmlf.transport.process_group import GroupEndpoint
from dmlf.transport.torch_store import first_line

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def started_by_torchrun(transport: str) -> bool:
    """Whether this process is one rank of a group that exists already."""
    return transport == "process_group" and all(name in os.environ for name in _VARIABLES)


def speaks_for_the_run(transport: str) -> bool:
    """Whether this process writes and prints: of a group, rank 0 alone does."""
    return own_rank(transport) in (None, 0)


def own_rank(transport: str) -> int | None:
    """This process's rank in the group that torchrun started; None without torchrun."""
    return _integer("RANK") if started_by_torchrun(transport) else None


def world_size_of_group(algorithm: str, num_servers: int) -> int:
    """The workers of this process's group: its size without servers. Raises ConfigError."""
    return _integer("WORLD_SIZE") - _num_servers(algorithm, num_servers)


def run_as_member(config: RunConfig, job: RankJob) -> list[RankReport]:
    """Train as one rank of the group; return the reports of all ranks, on each of them.

    Raises ConfigError when the group's size is not that of the run.
    """
    rank, size = _integer("RANK"), _integer("WORLD_SIZE")
    expected = config.world_size + _num_servers(config.algorithm, config.num_servers)
    if size != expected:
        raise ConfigError(
            "world_size",
            config.world_size,
            f"{size - expected + config.world_size}, as {size} processes were started",
        )
    signal_on_parent_death(signal.SIGTERM)
    limit_threads(config.threads_per_rank)
    import torch.distributed as dist

    found = dist.is_initialized()
    report = run_rank(rank, replace(job, endpoint=GroupEndpoint(rank, size, config.timeout_s)))
    texts = _gather(size, report_to_json(report))
    if not found:
        # A group that is left to the end of the process aborts it now and then: its threads are
        # still at work while the interpreter goes.
        dist.destroy_process_group()
    return [report_from_json(text) for text in texts]


def _gather(size: int, text: str) -> list[str]:
    """Bring the ranks' texts together on all of them, as tensors: nothing is pickled.

    Raises PeerLost.
    """
    import torch
    import torch.distributed as dist

    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    try:
        dist.all_gather(lengths, torch.tensor([data.numel()]))
        padded = torch.zeros(max(map(int, lengths)), dtype=torch.uint8)
        padded[: data.numel()] = data
        gathered = [torch.empty_like(padded) for _ in range(size)]
        dist.all_gather(gathered, padded)
    except RuntimeError as error:
        detail = f"its report did not come ({first_line(error)})"
        raise PeerLost("a rank", detail) from error
    return [
        part[: int(length)].numpy().tobytes().decode()
        for part, length in zip(gathered, lengths, strict=True)
    ]


def _num_servers(algorithm: str, num_servers: int) -> int:
    registered = registry().get(algorithm)
    return registered.server_count(num_servers) if registered else 0


def _integer(name: str) -> int:
    value = os.environ[name]
    if not value.isdecimal():
        raise ConfigError(name, value, "a number, as torchrun sets it")
    return int(value)
