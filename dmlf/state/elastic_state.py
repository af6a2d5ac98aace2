"""What a function that recovers goes on from: kept in memory, brought to ranks that lack it."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import ConfigError, NoCheckpoint
from dmlf.group import Group
from dmlf.group.blobs import broadcast_bytes
from dmlf.group.place import seat
from dmlf.state.elastic_sampler import ElasticSampler
from dmlf.state.items import has_state, restore, state_of
from dmlf.state.loading import load
from dmlf.state.saving import save
from dmlf.state.tree import Packer, Unpacker
from dmlf.strict_json import parse

_RESERVED = ("keep", "group", "random_state", "state", "step")
"""Arguments of `save` and `load`, after which no item can be named; values can."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A commit: how many there were before it, and the state as JSON and named arrays."""

    number: int
    tree: Any
    tensors: dict[str, npt.NDArray[Any]]

    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        digest = hashlib.sha256(json.dumps(self.tree).encode())
        for array in self.tensors.values():
            digest.update(_bytes_of(array).data)
        return digest.digest()


class ElasticState:
    """The state of a loop, for a function decorated by `dmlf.elastic`; all ranks hold the same.

    Named at the start, read and written as attributes: items with a state (as of `dmlf.save`:
    models, optimizers, samplers) and plain values (numbers, text, arrays, containers of them), such
    as `epoch=0`.

    commit() keeps all of it in memory, and is where the function goes on after a change of its
    ranks. folder: commits number 0, `save_every`, 2 `save_every`, ... are saved there by rank 0 as
    well, as `dmlf.save` does; the function begins from the newest one there.
    Cost: two copies of the state in memory; a commit takes one copy of it, and sends nothing.
    Raises ConfigError; UnsupportedState for what cannot be kept, naming it.
    """

    _items: dict[str, Any]
    _values: dict[str, Any]
    _kept: _Kept | None
    _spare: dict[str, npt.NDArray[Any]]

    def __init__(
        self, *, folder: str | Path | None = None, save_every: int = 1, **items: Any
    ) -> None:
        if isinstance(save_every, bool) or not isinstance(save_every, int) or save_every < 1:
            raise ConfigError("save_every", save_every, "a number of commits, at least 1")
        self._items, self._values = {}, {}
        self._folder, self._save_every, self._saves = folder, save_every, False
        self._kept, self._spare = None, {}
        for name, value in items.items():
            is_item = has_state(value)
            if name.startswith("_") or hasattr(type(self), name) or (is_item and name in _RESERVED):
                raise ConfigError("item", name, "another name: this one has a meaning already")
            (self._items if is_item else self._values)[name] = value

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            for held in (self._items, self._values):
                if name in held:
                    return held[name]
        raise AttributeError(f"the state has no {name!r}; name it when the state is made")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif name in self._items:
            self._items[name] = value
        elif name in self._values:
            self._values[name] = value
        else:
            raise AttributeError(f"the state has no {name!r}; name it when the state is made")

    @property
    def commits(self) -> int:
        """How many there were, on all ranks alike."""
        return 0 if self._kept is None else self._kept.number

    def commit(self) -> None:
        """Keep the state as it is: after an error on any rank the function begins again from it.

        Call it on all ranks, after a step is applied. Raises CollectiveAborted, for the decorator,
        when ranks have come or are to go.
        """
        self._keep(self.commits + 1)
        if self._saves and self.commits % self._save_every == 0:
            assert self._folder is not None
            save(
                self._folder,
                step=self.commits,
                state=self._values,
                random_state=False,
                **self._items,
            )
        own = seat()
        if own is not None and own.is_inside:
            own.stepped(self.commits)
            own.check()

    def begin(self) -> None:
        """A function begins: from the state as it is, also where another one has committed."""
        if self._kept is not None:
            self._keep(self.commits + 1)

    def synchronize(self, group: Group) -> str:
        """Bring all ranks to the newest commit that any holds, and say whose it was.

        Ranks that have none yet take it; where nobody has one, rank 0 gives the newest checkpoint
        of the folder, or its state as it is. Samplers deal to the ranks of `group` from now on.
        """
        own = self._kept
        row = np.zeros(40, np.uint8)
        row[:8] = np.array([-1 if own is None else own.number], "<i8").view(np.uint8)
        row[8:] = np.frombuffer(bytes(32) if own is None else own.digest(), np.uint8)
        rows = group.all_gather(row)
        numbers = [int(number) for number in rows[:, :8].copy().view("<i8").ravel()]
        newest = max(numbers)
        root = numbers.index(newest)
        source = f"the memory of rank {root}"
        if newest < 0:
            told = self._first() if group.rank == 0 else ""
            source = broadcast_bytes(group, told.encode()).decode()
            differing = list(range(1, group.world_size))
        else:
            differing = [r for r, other in enumerate(rows) if not np.array_equal(other, rows[root])]
        for rank in differing if newest >= 0 and group.rank == root else ():
            if numbers[rank] == newest:
                print(
                    f"dmlf: commit {newest}: rank {rank} held another state than rank {root}, "
                    "whose is taken; what is committed should be the same on all ranks",
                    file=sys.stderr,
                )
        if differing:
            self._spread(group, root)
        self._restore()
        self._saves = self._folder is not None and group.rank == 0
        for item in self._items.values():
            if isinstance(item, ElasticSampler):
                item.reset(group.rank, group.world_size)
        return source

    def _first(self) -> str:
        """On rank 0: from the newest checkpoint, or as it is."""
        number, source = 0, "the start"
        if self._folder is not None:
            try:
                found = load(self._folder, random_state=False, **self._items)
            except NoCheckpoint:
                pass
            else:
                number, source = found.step, f"checkpoint {found.path}"
                self._values.update(found.state)
        self._keep(number)
        return source

    def _keep(self, number: int) -> None:
        packer = Packer()
        items = {
            name: packer.pack(state_of(name, item), name, name)
            for name, item in self._items.items()
        }
        tree = {"items": items, "values": packer.pack(self._values, "state", "state")}
        # The memory of the commit before the last is used again, if the shapes are the same.
        spare = self._spare
        tensors = {}
        for name, array in packer.tensors.items():
            copy = spare.get(name)
            if copy is None or copy.shape != array.shape or copy.dtype != array.dtype:
                copy = np.empty(array.shape, array.dtype)
            np.copyto(copy, array)
            tensors[name] = copy
        self._spare = {} if self._kept is None else self._kept.tensors
        self._kept = _Kept(number, tree, tensors)

    def _restore(self) -> None:
        """Bring items and values to the commit that is kept."""
        # What is unpacked may share memory with what it is unpacked from.
        kept = self._kept
        assert kept is not None
        unpacker = Unpacker({name: array.copy() for name, array in kept.tensors.items()})
        for name, item in self._items.items():
            restore(item, unpacker.unpack(kept.tree["items"][name]))
            if callable(getattr(item, "zero_grad", None)):
                item.zero_grad(set_to_none=True)
        self._values.update(unpacker.unpack(kept.tree["values"]))

    def _spread(self, group: Group, root: int) -> None:
        """Give the commit of rank `root` to all."""
        data, kept = b"", self._kept
        if group.rank == root:
            assert kept is not None
            shapes = [[n, array.dtype.str, list(array.shape)] for n, array in kept.tensors.items()]
            told = {"number": kept.number, "tree": kept.tree, "tensors": shapes}
            data = json.dumps(told).encode()
        told = parse(broadcast_bytes(group, data, root))
        if group.rank != root:
            tensors = {n: np.empty(shape, dtype) for n, dtype, shape in told["tensors"]}
            kept = _Kept(told["number"], told["tree"], tensors)
        assert kept is not None
        for array in kept.tensors.values():
            if array.size:
                group.broadcast(_bytes_of(array), root)
        self._kept = kept


def _bytes_of(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The same memory as bytes: [number of bytes]."""
    return array.reshape(-1).view(np.uint8)
