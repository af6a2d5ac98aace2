"""Programs for ranks of a torch.distributed group, some of which are stopped or killed."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np

from dmlf.errors import TransportError
from dmlf.protocol import Message, Phase, Tag
from dmlf.transport import process_group

TIMEOUT_S = 30.0
DEADLINE_S = 0.5
TAG = Tag(0, 0, 0, Phase.PUSH, 0, 0)
Failures = list[TransportError | str]


def failure(call: Any, *arguments: Any) -> TransportError | str:
    """The typed error of a call, or what it returned."""
    try:
        return f"returned {call(*arguments)!r}"
    except TransportError as error:
        return error


def one_gets_a_signal(rank: int, argument: tuple[Any, int]) -> Failures:
    """Rank 1 is stopped or killed; the others send to it, and reduce with it."""
    endpoint, number = argument
    signal.alarm(int(TIMEOUT_S))  # ends a rank that waits for ever
    process_group.CLOSE_S = process_group._GOODBYE_S = DEADLINE_S
    transport = endpoint.connect()
    vector = np.ones(1000, np.float32)
    transport.all_reduce(vector, TIMEOUT_S)
    if rank == 1:
        os.kill(os.getpid(), number)
    failures = []
    if number == signal.SIGSTOP:
        large = Message(TAG, np.ones(16 << 20, np.float32))
        failures.append(failure(transport.send, 1, large))
        failures.append(failure(transport.recv, 1, DEADLINE_S))
        if rank == 2:
            failures.append(failure(transport.close))
            return failures
    failures.append(failure(transport.all_reduce, vector, DEADLINE_S))
    transport.abandon()
    return failures


def rank_0_is_killed(rank: int, argument: tuple[Any, str]) -> None:
    """Rank 0 dies before it serves the store, or when all have met and connect."""
    endpoint, moment = argument
    signal.alarm(int(TIMEOUT_S))
    process_group.CONNECT_S = 2.0 if moment == "before" else TIMEOUT_S
    if rank == 0:
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        import torch.distributed as dist

        def die(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        die._Options = dist.ProcessGroupGloo._Options  # type: ignore[attr-defined]
        die.create_device = dist.ProcessGroupGloo.create_device  # type: ignore[attr-defined]
        dist.ProcessGroupGloo = die  # type: ignore[misc,assignment]
    endpoint.connect()


def alone(rank: int, size: int) -> TransportError | str:
    """One rank of those that torchrun's environment promises."""
    signal.alarm(int(TIMEOUT_S))
    process_group.CONNECT_S = 1.0
    return failure(process_group.GroupEndpoint(rank, size).connect)
