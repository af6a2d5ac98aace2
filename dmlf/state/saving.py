"""Saving the state of a loop of your own, as a checkpoint of dmlf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmlf.checkpoint import CheckpointStore, OwnLoop, RunState, SamplerPosition, Snapshot, Verified
from dmlf.errors import ConfigError
from dmlf.state import random_state as global_random
from dmlf.state.items import Group, state_of
from dmlf.state.tree import Packer

# What this process has verified or written, by folder: a save does not read it all again.
_verified: dict[Path, Verified] = {}


def save(
    folder: str | Path,
    *,
    step: int,
    state: Any = None,
    keep: int = 3,
    random_state: bool = True,
    group: Group | None = None,
    **items: Any,
) -> Path | None:
    """Save the state after `step` steps, whole or not at all, and return the checkpoint's folder.

    items: whatever has a state, by a name of your choice: `model=model, optimizer=optimizer`. That
    is anything with state_dict() and load_state_dict(), and random generators of python, numpy and
    torch; None is left out. state: values of your own: None, booleans, numbers, text, bytes, numpy
    arrays, torch tensors, and lists, tuples and dicts of them. random_state: keep the states of
    python's, numpy's and torch's global generators. keep: how many of the newest checkpoints stay.
    group: where there are several ranks, rank 0 writes, all wait for it, and the others get None.

    Once it returns, the checkpoint is durable, and earlier ones are as docs/checkpoints.md says.
    Every bit is kept, also of NaNs; views of the same memory stay one. Cost: one copy of the state
    in memory, a SHA-256 of it twice, seven fsyncs.
    Raises UnsupportedState, before anything is written, for what cannot be kept, naming it;
    ConfigError; CheckpointWriteError, and CheckpointMismatch where the folder is of `dmlf train`.
    """
    path = None
    if group is None or group.rank == 0:
        snapshot = _snapshot(step, state, random_state, items)
        place = Path(folder).absolute()
        trusted = _verified.get(place, frozenset())
        with CheckpointStore(place, OwnLoop(), keep=keep, verified=trusted) as store:
            path = store.save(snapshot)
            _verified[place] = store.verified()
    if group is not None:
        group.barrier()
    return path


def _snapshot(step: int, state: Any, random_state: bool, items: dict[str, Any]) -> Snapshot:
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ConfigError("step", step, "the number of steps that are done, at least 0")
    packers = {"model": Packer()}
    others = Packer()
    packed = {
        # A model's tensors are named as in its own state_dict: other tools then read the file.
        name: packers.get(name, others).pack(
            state_of(name, item), name, "" if name in packers else name
        )
        for name, item in items.items()
        if item is not None
    }
    kept = {
        name: others.pack(value, f"the random state of {name}", f"random.{name}")
        for name, value in (global_random.capture() if random_state else {}).items()
    }
    user = {"items": packed, "state": others.pack(state, "state", "state")}
    where = RunState(
        step=step,
        generation=0,
        config=OwnLoop(),
        sampler=SamplerPosition(0, step),
        random=kept,
        user=user,
    )
    return Snapshot(where, packers["model"].tensors, others.tensors)
