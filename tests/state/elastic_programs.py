"""Functions that recover, imported by name in the processes of ranks."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

import dmlf
from dmlf.errors import CollectiveAborted
from dmlf.group import default_group, place

SAMPLES, BATCH, EPOCHS = 60, 12, 3
STEPS = EPOCHS * SAMPLES // BATCH
LATE_S = 2.0
Faults = dict[str, int]
"""The step of each `KIND RANK`: kill, stop, leave, join (asked for by that rank), raise."""


class Report(NamedTuple):
    """used: [SAMPLES], how often each was in a step. sizes: the world size of each step."""

    rank: int
    digest: str
    used: Any
    sizes: list[int]
    generation: int


def strike(faults: Faults, step: int, once: str) -> None:
    """Do to this process, or ask of the launcher, what is due at `step`, once.

    once: a folder that remembers what was done.
    """
    for what, when in faults.items():
        kind, _, rank = what.partition(" ")
        if when != step or int(rank) != dmlf.rank():
            continue
        try:
            os.close(os.open(os.path.join(once, what), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        if kind == "raise":
            raise ValueError("of the user's own making")
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if kind == "leave":
            os.kill(os.getpid(), signal.SIGTERM)
        if kind == "join":
            launcher = multiprocessing.parent_process()
            assert launcher is not None
            os.kill(launcher.pid or 0, signal.SIGUSR1)
        seat = place.seat()
        assert seat is not None
        seat.hold(60.0)  # a step is short: let the change come before the end
        seat.check()


def train_torch(
    faults: Faults, once: str, reduction: str = "exact", outside: bool = False
) -> Report:
    """Train to the end; each sample is a backward pass of its own, so no grouping shows."""
    import torch

    torch.manual_seed(0)
    inputs = torch.randn(SAMPLES, 6)
    targets = torch.randint(0, 3, (SAMPLES,))
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sampler = dmlf.ElasticSampler(SAMPLES, BATCH, seed=3)
    used = np.zeros(SAMPLES, np.int64)
    state = dmlf.ElasticState(
        model=model, optimizer=optimizer, sampler=sampler, epoch=0, step=0, used=used, sizes=[]
    )
    options: dict[str, Any] = {"reduction": reduction, "gradient_op": "sum"}
    early = dmlf.DistributedDataParallel(model, **options) if outside else None

    @dmlf.elastic
    def train(state: dmlf.ElasticState) -> int:
        ddp = early or dmlf.DistributedDataParallel(model, **options)
        for state.epoch in range(state.epoch, EPOCHS):  # noqa: B020
            sampler.set_epoch(state.epoch)
            for ids in sampler:
                strike(faults, state.step, once)
                optimizer.zero_grad()
                for number, index in enumerate(ids, 1):
                    with nullcontext() if number == len(ids) else ddp.no_sync():
                        loss = torch.nn.functional.cross_entropy(
                            ddp(inputs[index : index + 1]), targets[index : index + 1]
                        )
                        (loss / BATCH).backward()
                mine = np.bincount(ids, minlength=SAMPLES)
                dmlf.all_reduce(mine)
                optimizer.step()
                sampler.advance()
                state.used = state.used + mine
                state.sizes = [*state.sizes, dmlf.world_size()]
                state.step += 1
                state.commit()
        return dmlf.rank()

    rank = train(state)
    dmlf.barrier()  # the group can be used on
    generation = default_group().member.generation
    return Report(rank, digest_of(model, optimizer), state.used, state.sizes, generation)


def digest_of(model: Any, optimizer: Any) -> str:
    """SHA-256 of parameters and momentum."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    for slots in optimizer.state_dict()["state"].values():
        for value in slots.values():
            digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()


def count(faults: Faults, once: str, steps: int = 6, folder: str | None = None) -> list[int]:
    """Without torch: [steps done, steps done by this process, world size at the end]."""
    state = dmlf.ElasticState(total=np.zeros(3, np.float32), step=0, folder=folder, save_every=2)
    own = [0]

    @dmlf.elastic
    def run(state: dmlf.ElasticState, until: int) -> None:
        while state.step < until:
            strike(faults, state.step, once)
            one = np.full(3, 1 / dmlf.world_size(), np.float32)
            dmlf.all_reduce(one)
            state.total += one
            state.step += 1
            own[0] += 1
            state.commit()

    run(state, steps)
    np.testing.assert_allclose(state.total, steps, rtol=1e-5)
    return [state.step, own[0], dmlf.world_size()]


def lost_outside(where: str, once: str) -> list[int]:
    """Rank 1 dies, once, while all are outside of the function."""
    group = dmlf.init()
    if where != "after":
        _die_once(group.rank, once)
    if where == "in a call before":
        _end_late(once, dmlf.barrier)
    found = count({}, once)
    if where == "after":
        _die_once(dmlf.rank(), once)
        dmlf.barrier()
    return found


def _end_late(once: str, call: Callable[[], None]) -> None:
    """What fails here ends its process once the others have begun anew, if they do not wait."""
    begun = os.path.join(once, "begun")
    died = os.path.exists(os.path.join(once, "died"))
    if died and dmlf.rank() == 1:
        os.close(os.open(begun, os.O_CREAT))
    try:
        call()
    except CollectiveAborted:
        deadline = time.monotonic() + LATE_S
        while not os.path.exists(begun) and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        raise


def _die_once(rank: int, once: str) -> None:
    mark = os.path.join(once, "died")
    if rank == 1 and not os.path.exists(mark):
        os.close(os.open(mark, os.O_CREAT))
        os.kill(os.getpid(), signal.SIGKILL)


def only_on_rank_1(once: str) -> list[int]:
    """What is committed differs between ranks, until one is lost."""
    state = dmlf.ElasticState(mine=-1, step=0)

    @dmlf.elastic
    def run(state: dmlf.ElasticState) -> None:
        while state.step < 4:
            strike({"kill 2": 2}, state.step, once)
            dmlf.barrier()
            if not state.step:
                state.mine = dmlf.rank()
            state.step += 1
            state.commit()

    run(state)
    return [int(state.mine), int(state.commits)]


if __name__ == "__main__":  # under torchrun
    print(count({"kill 1": 5}, sys.argv[1], folder=os.path.join(sys.argv[1], "c")))
