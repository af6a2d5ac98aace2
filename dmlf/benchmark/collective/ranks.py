"""The launcher's side of the ranks that hold dmlf's strategies, Gloo and the limit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dmlf.benchmark.collective.config import GLOO, LIMIT, CollectiveConfig, parse_strategy
from dmlf.benchmark.collective.rank import Order, RankJob
from dmlf.errors import DependencyMissing, TransportError
from dmlf.runtime import Conversation, converse, process_context
from dmlf.transport import TRANSPORTS, Endpoint

# What the limit's memory is made of: the first of these that works here.
_LIMIT_TRANSPORTS = ("shm", "queue")


class Ranks:
    """Running ranks of one world size. `processes` counts those of each contestant."""

    def __init__(
        self, conversation: Conversation, world_size: int, processes: dict[str, int]
    ) -> None:
        self._conversation = conversation
        self._world_size = world_size
        self.processes = processes

    def measure(self, contestant: str, numel: int, calls: int) -> float:
        """Let a contestant take a turn; return the seconds of its slowest rank.

        A server is no rank of the collective: its workers wait for it inside their own time.
        Raises WrongSum, PeerLost and whatever a transport raises.
        """
        members = range(self.processes[contestant])
        seconds: list[float] = self._conversation.ask(Order(contestant, numel, calls), members)
        return max(seconds[: self._world_size])


@contextmanager
def started(config: CollectiveConfig, world_size: int, skipped: dict[str, str]) -> Iterator[Ranks]:
    """Start the ranks of a world size; a contestant that cannot be is put into `skipped`."""
    has_torch = importlib.util.find_spec("torch") is not None
    gloo = GLOO in config.peers and has_torch
    if GLOO in config.peers and not has_torch:
        skipped[GLOO] = 'torch is not installed; install it with: pip install -e ".[torch]"'
    preload = ["dmlf.benchmark.collective.rank"]
    preload += ["torch", "torch.distributed"] if gloo else []
    context = process_context(preload, 1)
    endpoints: dict[str, list[Endpoint]] = {}
    for strategy in config.strategies:
        parsed = parse_strategy(strategy)
        group_size = world_size + parsed.num_servers
        try:
            endpoints[strategy] = list(TRANSPORTS[parsed.transport](context, group_size))
        except (TransportError, DependencyMissing) as error:
            skipped[strategy] = str(error)
    for transport in _LIMIT_TRANSPORTS:
        try:
            endpoints[LIMIT] = list(TRANSPORTS[transport](context, world_size))
        except TransportError:
            continue
        break
    processes = {name: len(ends) for name, ends in endpoints.items()}
    if gloo:
        processes[GLOO] = world_size
        # Gloo would listen on the address of the host's name; keep it on loopback.
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # Without a name in any folder, no death can leave the file behind.
    rendezvous = os.memfd_create("dmlf-gloo", os.MFD_CLOEXEC)
    try:
        jobs = [
            RankJob(
                world_size=world_size,
                max_numel=max(config.sizes) // 4,
                bucket_numel=config.bucket_bytes // 4,
                seed=config.seed,
                timeout_s=config.timeout_s,
                endpoints={
                    name: ends[rank] for name, ends in endpoints.items() if rank < len(ends)
                },
                rendezvous=f"/proc/{os.getpid()}/fd/{rendezvous}"
                if gloo and rank < world_size
                else None,
            )
            for rank in range(max(processes.values()))
        ]
        program = f"{RankJob.__module__}:run_rank"
        with converse(context, program, jobs, config.timeout_s) as conversation:
            yield Ranks(conversation, world_size, processes)
            conversation.end()
    finally:
        os.close(rendezvous)
