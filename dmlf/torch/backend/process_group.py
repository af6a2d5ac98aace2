# torch declares every method twice; only the form that torch itself calls is implemented.
# mypy: disable-error-code="override,assignment"
"""torch's ProcessGroup over dmlf's transports: what torch calls a thing, and what does it here.

torch passes lists of tensors where a process may have several devices; here each holds one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from dmlf.errors import CollectiveAborted, ConfigError
from dmlf.group import Group
from dmlf.group.rendezvous import transport_over_store
from dmlf.torch.backend.collectives import Collectives
from dmlf.torch.backend.point_to_point import Mailbox, Receive
from dmlf.torch.backend.wire import Wire
from dmlf.torch.backend.work import CallOrder, FinishedWork, Tensors

NAME = "dmlf"


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What `init_process_group` and `new_group` take as `pg_options`.

    transport: `shm` or `tcp`; None for shm among ranks of one host, and tcp otherwise.
    """

    transport: str | None = None


class DmlfProcessGroup(dist.ProcessGroup):
    """One rank's place in a group of torch.distributed; made by `init_process_group("dmlf")`.

    Every rank makes the same collective calls in the same order; ranks that differ in operation,
    dtype or shape all raise CollectiveMismatch. Sends and receives have links of their own.
    timeout: how long any wait lasts before DeadlineExceeded.
    """

    def __init__(
        self, store: Any, rank: int, world_size: int, timeout: timedelta, options: BackendOptions
    ) -> None:
        super().__init__(rank, world_size)  # type: ignore[call-arg]
        timeout_s = timeout.total_seconds()
        meet = partial(
            transport_over_store,
            store,
            rank,
            world_size,
            transport=options.transport,
            timeout_s=timeout_s,
        )
        self._aborted = False
        self._group = Group(
            meet(prefix="collectives"),
            rank,
            world_size,
            timeout_s=timeout_s,
            interrupt=self._stop_if_aborted,
        )
        try:
            self._mailbox = Mailbox(meet(prefix="messages"), rank, world_size, timeout_s)
        except BaseException:
            self._group.abandon()
            raise
        self._collectives = Collectives(self._group)
        self._order = CallOrder(f"{NAME}-group")
        self._timeout_s = timeout_s
        self._name = self._description = ""

    # What it is

    def getBackendName(self) -> str:  # noqa: N802
        """The name of the backend."""
        return NAME

    # torch keeps name and description in the C++ backend, which a group in Python lacks.

    def _set_group_name(self, name: str) -> None:
        self._name = name

    def _set_group_desc(self, description: str) -> None:
        self._description = description

    @property
    def group_name(self) -> str:
        """The name under which torch knows the group."""
        return self._name

    @property
    def group_desc(self) -> str:
        """What its maker says of the group."""
        return self._description

    def set_timeout(self, timeout: timedelta) -> None:
        """Let later calls wait as long as this."""
        self._timeout_s = self._mailbox.timeout_s = timeout.total_seconds()

    def shutdown(self) -> None:
        """Deliver what was sent, and free all links."""
        self._order.close()
        try:
            self._group.close()
        finally:
            self._mailbox.close()

    def abort(self) -> None:
        """End what is outstanding, and free all links at once."""
        self._aborted = True
        self._order.close()
        try:
            self._group.abandon()
        finally:
            self._mailbox.abandon()

    def _stop_if_aborted(self) -> None:
        if self._aborted:
            raise CollectiveAborted(0)

    # Reductions

    def allreduce(self, tensors: Tensors, opts: Any = None) -> dist.Work:
        """Replace the tensor by its reduction over all ranks; a sparse one by its sum."""
        opts = opts or c10d.AllreduceOptions()
        if tensors[0].is_sparse:
            (sparse,) = tensors
            call = partial(self._collectives.all_reduce_sparse, sparse, opts.reduceOp)
            return self._run(call, tensors, [], opts)
        wires = _wires(tensors)
        return self._run(
            partial(self._collectives.all_reduce, wires, opts.reduceOp), tensors, wires, opts
        )

    def allreduce_coalesced(self, tensors: Tensors, opts: Any = None) -> dist.Work:
        """Replace every tensor by its reduction over all ranks."""
        return self.allreduce(tensors, opts or c10d.AllreduceCoalescedOptions())

    def reduce(self, tensors: Tensors, opts: Any = None) -> dist.Work:
        """Replace the tensor of the root by the reduction over all ranks."""
        opts = opts or c10d.ReduceOptions()
        (wire,) = wires = _wires(tensors)
        call = partial(self._collectives.reduce, wire, opts.reduceOp, opts.rootRank)
        return self._run(call, tensors, wires, opts)

    def reduce_scatter(
        self, outputs: Tensors, inputs: Sequence[Tensors], opts: Any = None
    ) -> dist.Work:
        """Replace every output by the reduction of the inputs that all ranks have for this one."""
        opts = opts or c10d.ReduceScatterOptions()
        outs = _wires(outputs)
        blocks = [_wires(row) for row in inputs]
        call = partial(self._collectives.reduce_scatter, outs, blocks, opts.reduceOp)
        return self._run(call, outputs, outs, opts)

    def reduce_scatter_single(
        self, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> dist.Work:
        """As `reduce_scatter`, of one tensor that holds the inputs for all ranks in order."""
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    def reduce_scatter_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None
    ) -> dist.Work:
        """As `reduce_scatter_single`, for each pair."""
        pairs = zip(outputs, inputs, strict=True)
        rows = [_parts("input", whole, part, self.size()) for part, whole in pairs]
        return self.reduce_scatter(outputs, rows, opts)

    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    # Copies

    def broadcast(self, tensors: Tensors, opts: Any = None) -> dist.Work:
        """Replace the tensor of every rank by that of the root."""
        opts = opts or c10d.BroadcastOptions()
        wires = _wires(tensors)
        call = partial(self._collectives.broadcast, wires, opts.rootRank)
        return self._run(call, tensors, wires, opts)

    def allgather(self, outputs: Sequence[Tensors], inputs: Tensors, opts: Any = None) -> dist.Work:
        """Bring every rank's input to all; outputs: a list of one tensor per rank."""
        outs, blocks = [_wires(row) for row in outputs], _wires(inputs)
        call = partial(self._collectives.all_gather, outs, blocks)
        tensors = [tensor for row in outputs for tensor in row]
        return self._run(call, tensors, [wire for row in outs for wire in row], opts)

    def allgather_coalesced(
        self, outputs: Sequence[Tensors], inputs: Tensors, opts: Any = None
    ) -> dist.Work:
        """Bring all inputs of every rank to all; outputs: per rank, a tensor for each input."""
        return self.allgather([list(row) for row in zip(*outputs, strict=True)], inputs, opts)

    def all_gather_single(
        self, output: torch.Tensor, input: torch.Tensor, opts: Any = None
    ) -> dist.Work:
        """As `allgather`, into one tensor that holds those of all ranks in order."""
        return self.all_gather_single_coalesced([output], [input], opts)

    def all_gather_single_coalesced(
        self, outputs: Tensors, inputs: Tensors, opts: Any = None
    ) -> dist.Work:
        """As `all_gather_single`, for each pair."""
        pairs = zip(outputs, inputs, strict=True)
        rows = [_parts("output", whole, part, self.size()) for whole, part in pairs]
        return self.allgather(rows, inputs, opts)

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def gather(self, outputs: Sequence[Tensors], inputs: Tensors, opts: Any = None) -> dist.Work:
        """Bring every rank's input to the root; outputs: there, a list of one per rank."""
        opts = opts or c10d.GatherOptions()
        row = list(outputs[0]) if outputs else []
        outs, (block,) = _wires(row), _wires(inputs)
        call = partial(self._collectives.gather, outs, block, opts.rootRank)
        return self._run(call, row, outs, opts)

    def scatter(self, outputs: Tensors, inputs: Sequence[Tensors], opts: Any = None) -> dist.Work:
        """Bring to every rank its input of the root's; inputs: there, a list of one per rank."""
        opts = opts or c10d.ScatterOptions()
        (out,) = outs = _wires(outputs)
        blocks = _wires(inputs[0]) if inputs else []
        call = partial(self._collectives.scatter, out, blocks, opts.rootRank)
        return self._run(call, outputs, outs, opts)

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> dist.Work:
        """Bring input number `dst` of every rank to rank `dst`, into its output for the sender."""
        outs = _wires(outputs)
        return self._run(
            partial(self._collectives.all_to_all, outs, _wires(inputs)), outputs, outs, opts
        )

    def all_to_all_single(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_split_sizes: Sequence[int],
        input_split_sizes: Sequence[int],
        opts: Any = None,
    ) -> dist.Work:
        """As `alltoall`, of one tensor cut along its first dimension, evenly without sizes."""
        return self.alltoall(
            _split("output", output, output_split_sizes, self.size()),
            _split("input", input, input_split_sizes, self.size()),
            opts,
        )

    alltoall_base = all_to_all_single

    def barrier(self, opts: Any = None) -> dist.Work:
        """Return when all ranks have called this."""
        return self._run(self._collectives.barrier, [], [], opts or c10d.BarrierOptions())

    # Point to point

    def send(self, tensors: Tensors, dst: int, tag: int = 0) -> dist.Work:
        """Send the tensor to rank `dst`; over when it is handed to the transport."""
        (wire,) = _wires(tensors)
        self._mailbox.send(wire, dst, tag)
        return FinishedWork(tensors)

    def recv(self, tensors: Tensors, src: int, tag: int = 0) -> Receive:
        """Receive the next message with this tag from rank `src` into the tensor."""
        (wire,) = _wires(tensors)
        return self._mailbox.receive(wire, src, tag, tensors)

    def recv_anysource(self, tensors: Tensors, tag: int = 0) -> Receive:
        """Receive the next message with this tag from any rank into the tensor."""
        (wire,) = _wires(tensors)
        return self._mailbox.receive(wire, None, tag, tensors)

    def _run(
        self, call: Callable[[], None], tensors: Tensors, wires: Sequence[Wire], opts: Any
    ) -> dist.Work:
        """Run `call` in its turn; it writes to `wires`."""
        given_s = opts.timeout.total_seconds() if opts is not None else 0.0
        timeout_s = given_s if given_s > 0.0 else self._timeout_s

        def run() -> None:
            self._group.timeout_s = timeout_s
            call()
            for wire in wires:
                wire.write_back()

        return self._order.run(run, tensors, later=opts is None or opts.asyncOp)


def _wires(tensors: Sequence[torch.Tensor]) -> list[Wire]:
    return [Wire(tensor) for tensor in tensors]


def _parts(name: str, whole: torch.Tensor, part: torch.Tensor, size: int) -> Tensors:
    """The parts of `whole`, one per rank, each as large as `part`; they share its memory."""
    if whole.numel() != part.numel() * size or not whole.is_contiguous():
        allowed = f"a contiguous tensor of {size} times {part.numel()} elements"
        raise ConfigError(name, list(whole.shape), allowed)
    return list(whole.view(size, *part.shape).unbind(0))


def _split(name: str, whole: torch.Tensor, sizes: Sequence[int], world_size: int) -> Tensors:
    """`whole` cut along its first dimension, one part per rank; they share its memory."""
    if not whole.is_contiguous():
        raise ConfigError(name, f"strides {whole.stride()}", "a contiguous tensor")
    rows = whole.shape[0] if whole.dim() else 0
    parts = list(sizes) or [rows // world_size] * world_size
    if len(parts) != world_size or sum(parts) != rows:
        allowed = f"{world_size} sizes that sum to {rows}, or none where they divide it"
        raise ConfigError(f"{name}_split_sizes", parts, allowed)
    return list(torch.split(whole, parts))
