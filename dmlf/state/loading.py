"""Loading the state of a loop of your own: everything is verified before anything is changed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmlf.checkpoint import Loaded, OwnLoop, load_newest
from dmlf.errors import CheckpointCorrupt, CheckpointError, CheckpointMismatch, NoCheckpoint
from dmlf.state import random_state as global_random
from dmlf.state.items import Group, restore
from dmlf.state.tree import Unpacker


@dataclass(frozen=True, slots=True)
class LoadedState:
    """What was loaded beside the items: steps that were done, and the `state` that was saved.

    rejected: newer checkpoints that were passed over, and why.
    """

    step: int
    state: Any
    path: Path
    rejected: tuple[CheckpointError, ...] = ()


def load(
    folder: str | Path, *, random_state: bool = True, group: Group | None = None, **items: Any
) -> LoadedState:
    """Load the newest valid checkpoint of `save` into `items`, in place.

    items: as they were saved, by the same names; those of the checkpoint that are not named here
    are left alone. Tensors are made on the CPU; what loads them moves them. random_state: put the
    global generators back, where they were saved. group: of its ranks, only 0 gets the random
    state back, which was its own.

    Every byte of the checkpoint is verified, and everything decoded, before the first item is
    touched. Newer checkpoints that are damaged are passed over, with a line each on standard error.
    Raises NoCheckpoint where there is none at all, NoValidCheckpoint where none can be used, and
    CheckpointMismatch where the checkpoint has no such item, or an item refuses its state; items
    named before that one have theirs then.
    """
    place = Path(folder).absolute()
    loaded = load_newest(place, OwnLoop())
    if loaded is None:
        raise NoCheckpoint(str(place))
    for error in loaded.rejected:
        print(f"dmlf: passed over {error}", file=sys.stderr)
    saved, state, kept = _decoded(loaded)
    wanted = {name: item for name, item in items.items() if item is not None}
    for name in wanted:
        if name not in saved:
            problem = f"holds no {name!r}; it holds {', '.join(saved) or 'no items'}"
            raise CheckpointMismatch(str(loaded.path), problem)
    for name, item in wanted.items():
        try:
            restore(item, saved[name])
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            problem = f"{name} refuses the state that was saved ({reason})"
            raise CheckpointMismatch(str(loaded.path), problem) from error
    if random_state and kept and (group is None or group.rank == 0):
        try:
            global_random.restore(kept)
        except ValueError as error:
            raise CheckpointMismatch(str(loaded.path), str(error)) from None
    return LoadedState(loaded.manifest.state.step, state, loaded.path, loaded.rejected)


def _decoded(loaded: Loaded) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The states of the items, the user's state, and the random state."""
    snapshot, user = loaded.snapshot, loaded.manifest.state.user
    model, others = Unpacker(snapshot.parameters), Unpacker(snapshot.optimizer)
    try:
        items = {
            name: (model if name == "model" else others).unpack(node)
            for name, node in user["items"].items()
        }
        kept = {name: others.unpack(node) for name, node in loaded.manifest.state.random.items()}
        return items, others.unpack(user["state"]), kept
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        problem = f"its state cannot be decoded: {' '.join(str(error).split())}"
        raise CheckpointCorrupt(str(loaded.path), problem[:500]) from None
