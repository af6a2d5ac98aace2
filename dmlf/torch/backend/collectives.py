"""The collectives of torch.distributed, on flat vectors, over a `Group`.

All ranks of the group first agree on what is called, with which dtypes and shapes. Reductions add
in the order of ranks (see `folds.py`). W stands for the world size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dmlf.errors import ConfigError
from dmlf.group import Group
from dmlf.numerics.accumulators import checked_payload
from dmlf.protocol import (
    Member,
    Steps,
    Tag,
    all_gather,
    broadcast,
    chunk_slices,
    exchange,
    gather,
    scatter,
)
from dmlf.torch.backend.folds import Operation
from dmlf.torch.backend.wire import Vector, Wire

_Take = Callable[[int, Any], None]


class Collectives:
    """One rank's place in a group, and what it does together with the others.

    Wires are read and written in place; whoever has made them writes them back.
    Every call raises ConfigError, CollectiveMismatch, DeadlineExceeded, PeerLost, GroupClosed.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._member = Member(group.rank, group.world_size)
        self._rank, self._size = group.rank, group.world_size

    def all_reduce(self, wires: Sequence[Wire], reduce_op: Any) -> None:
        """Replace every wire by its reduction over all ranks.

        Cost: 2 (W - 1) messages and 2 (W - 1) / W * numel elements sent per rank and wire.
        """
        operations = [Operation(reduce_op, wire.dtype, self._size) for wire in wires]

        def steps(at: Tag) -> Steps[None]:
            for index, (wire, operation) in enumerate(zip(wires, operations, strict=True)):
                yield from self._all_reduce(at._replace(bucket=index), wire.flat, operation)

        self._group.call(f"all_reduce({operations[0].name}, {_texts(wires)})", steps)

    def all_reduce_sparse(self, tensor: torch.Tensor, reduce_op: Any) -> None:
        """Replace a sparse (COO) tensor by its sum over all ranks.

        Cost: all that any rank has is brought to all, W - 1 messages each of the numbers of
        elements, the indices and the values.
        """
        own = tensor.detach().coalesce()
        operation = Operation(reduce_op, own.dtype, self._size)
        if operation.name != "SUM" or tensor.layout is not torch.sparse_coo:
            raise ConfigError("op", operation.name, f"SUM of sparse_coo, not of {tensor.layout}")

        def steps(at: Tag) -> Steps[list[torch.Tensor]]:
            counts = [np.zeros(1, np.int64) for _ in range(self._size)]
            number = np.array([own.values().shape[0]], np.int64)
            yield from self._all_gather(at, counts, number)
            parts = []
            for index, part in enumerate((own.indices().T, own.values()), start=1):
                rows = [part.new_empty((int(count[0]), *part.shape[1:])) for count in counts]
                flats = [Wire(row).flat for row in rows]
                yield from self._all_gather(at._replace(bucket=index), flats, Wire(part).flat)
                parts.append(rows)
            return [
                torch.sparse_coo_tensor(
                    indices.T, values, own.shape, check_invariants=True, is_coalesced=True
                )
                for indices, values in zip(*parts, strict=True)
            ]

        text = f"all_reduce({operation.name}, sparse {str(own.dtype)[6:]}{list(own.shape)})"
        total, *others = self._group.call(text, steps)
        for other in others:
            total = total + other
        tensor.copy_(total.coalesce())

    def reduce(self, wire: Wire, reduce_op: Any, root: int) -> None:
        """Replace the wire of `root` by the reduction over all ranks; other ranks keep theirs.

        Cost: at most W messages a rank and (W - 1) / W * numel elements, and a chunk to the root.
        """
        operation = Operation(reduce_op, wire.dtype, self._size)
        chunks = self._chunks(wire.flat)

        def steps(at: Tag) -> Steps[None]:
            own = chunks[self._rank]
            out = own if self._rank == root else np.empty_like(own)
            yield from self._reduce_scatter(at, chunks, operation, out)
            yield from gather(self._member, at, root, lambda _src: out, self._into(chunks))

        self._group.call(f"reduce({operation.name}, {wire.text} to rank {root})", steps)

    def reduce_scatter(
        self, outs: Sequence[Wire], blocks: Sequence[Sequence[Wire]], reduce_op: Any
    ) -> None:
        """Replace every `out` by the reduction of the blocks that all ranks have for this one.

        blocks: for each `out`, one block per rank. Cost: W - 1 messages a rank and `out`.
        """
        operations = [Operation(reduce_op, out.dtype, self._size) for out in outs]
        for out, row in zip(outs, blocks, strict=True):
            self._check_row("input_list", row, out)

        def steps(at: Tag) -> Steps[None]:
            for index, (out, row) in enumerate(zip(outs, blocks, strict=True)):
                flats = [wire.flat for wire in row]
                place = at._replace(bucket=index)
                yield from self._reduce_scatter(place, flats, operations[index], out.flat)

        texts = "; ".join(map(_texts, blocks))
        self._group.call(f"reduce_scatter({operations[0].name}, {texts})", steps)

    def broadcast(self, wires: Sequence[Wire], root: int) -> None:
        """Replace the wires of all ranks by those of `root`. Cost: at most log2 W messages each."""

        def steps(at: Tag) -> Steps[None]:
            for index, wire in enumerate(wires):
                yield from self._broadcast(at._replace(bucket=index), wire.flat, root)

        self._group.call(f"broadcast({_texts(wires)} from rank {root})", steps)

    def all_gather(self, outs: Sequence[Sequence[Wire]], blocks: Sequence[Wire]) -> None:
        """Bring every block of every rank to all; outs: for each block, one wire per rank.

        Cost: W - 1 messages a rank and block, around the ring.
        """
        for row, block in zip(outs, blocks, strict=True):
            self._check_row("tensor_list", row, block)

        def steps(at: Tag) -> Steps[None]:
            for index, (row, block) in enumerate(zip(outs, blocks, strict=True)):
                flats = [wire.flat for wire in row]
                yield from self._all_gather(at._replace(bucket=index), flats, block.flat)

        self._group.call(f"all_gather({'; '.join(map(_texts, outs))})", steps)

    def gather(self, outs: Sequence[Wire], block: Wire, root: int) -> None:
        """Bring the blocks of all ranks, all of one shape, to `outs` of `root`."""
        _check_alike("gather_list", outs, block)

        def steps(at: Tag) -> Steps[None]:
            flats = [wire.flat for wire in outs]
            if self._rank == root:
                np.copyto(flats[root], block.flat)
            yield from gather(self._member, at, root, lambda _src: block.flat, self._into(flats))

        self._group.call(f"gather({block.text} to rank {root})", steps)

    def scatter(self, out: Wire, blocks: Sequence[Wire], root: int) -> None:
        """Bring to every rank its block of those that `root` has, all of one shape."""
        _check_alike("scatter_list", blocks, out)

        def steps(at: Tag) -> Steps[None]:
            if self._rank == root:
                np.copyto(out.flat, blocks[root].flat)
            into = self._into([out.flat] * self._size)
            yield from scatter(self._member, at, root, lambda dst: blocks[dst].flat, into)

        self._group.call(f"scatter({out.text} from rank {root})", steps)

    def all_to_all(self, outs: Sequence[Wire], blocks: Sequence[Wire]) -> None:
        """Bring block number `dst` of every rank to rank `dst`, into its wire for the sender.

        Blocks may differ in size. One that does not fit raises SchemaMismatch where it arrives,
        and breaks the group. Cost: W - 1 messages a rank.
        """
        self._check_row("output", outs, blocks[self._rank])

        def steps(at: Tag) -> Steps[None]:
            into = self._into([wire.flat for wire in outs])
            yield from exchange(self._member, at, 0, lambda dst: blocks[dst].flat, into)

        self._group.call(f"all_to_all({blocks[0].dtype})", steps)

    def barrier(self) -> None:
        """Return when all ranks have called this."""
        self._group.call("barrier()", _nothing)

    def _all_reduce(self, at: Tag, flat: Vector, operation: Operation) -> Steps[None]:
        chunks = self._chunks(flat)
        own = chunks[self._rank]
        yield from self._reduce_scatter(at, chunks, operation, own)
        yield from exchange(self._member, at, 1, lambda _dst: own, self._into(chunks))

    def _reduce_scatter(
        self, at: Tag, blocks: Sequence[Vector], operation: Operation, out: Vector
    ) -> Steps[None]:
        """Fold the blocks that all ranks have for this one into `out`."""
        own = blocks[self._rank]
        if own is not out and np.may_share_memory(own, out):  # the output is a part of the input
            own = own.copy()
        fold = operation.fold(self._rank, own, out)

        def take(src: int, payload: Any) -> None:
            fold.take(src, own if src == self._rank else self._checked(payload, out))

        yield from exchange(self._member, at, 0, blocks.__getitem__, take)
        fold.finish()

    def _all_gather(self, at: Tag, flats: Sequence[Vector], own: Vector) -> Steps[None]:
        np.copyto(flats[self._rank], own)
        yield from all_gather(self._member, at, flats.__getitem__, self._into(flats))

    def _broadcast(self, at: Tag, flat: Vector, root: int) -> Steps[None]:
        into = self._into([flat] * self._size)
        yield from broadcast(self._member, at, root, lambda _root: flat, into)

    def _chunks(self, flat: Vector) -> list[Vector]:
        return [flat[chunk] for chunk in chunk_slices(flat.size, self._size)]

    def _into(self, flats: Sequence[Vector]) -> _Take:
        """Take the block of a rank by copying it to that rank's vector."""

        def take(src: int, payload: Any) -> None:
            if payload is not flats[src]:
                np.copyto(flats[src], self._checked(payload, flats[src]))

        return take

    def _checked(self, payload: Any, like: Vector) -> Vector:
        fitting: Vector = checked_payload(self._rank, payload, slice(0, like.size), like.dtype)
        return fitting

    def _check_row(self, name: str, row: Sequence[Wire], own: Wire) -> None:
        if len(row) != self._size:
            raise ConfigError(name, f"{len(row)} tensors", f"{self._size}, one per rank")
        _check_alike(f"{name}[{self._rank}]", [row[self._rank]], own)
        for wire in row:
            if wire.dtype != own.dtype:
                raise ConfigError(name, wire.text, f"tensors of {own.dtype}")


def _nothing(_at: Tag) -> Steps[None]:
    yield from ()


def _texts(wires: Sequence[Wire]) -> str:
    return ", ".join([wire.text for wire in wires])


def _check_alike(name: str, wires: Sequence[Wire], like: Wire) -> None:
    for wire in wires:
        if (wire.dtype, wire.flat.size) != (like.dtype, like.flat.size):
            raise ConfigError(name, wire.text, f"a tensor like {like.text}")
