"""Transport `process_group`: torch.distributed carries the messages; the engine of clusters.

Each message is two point-to-point operations, a header of HEADER integers and the payload's
bytes. One thread per peer always has the next header's receive posted, so that a send completes
whatever the peer is doing, and every wait for a message has the caller's own deadline: an
operation of torch.distributed that runs out of time breaks its group.

The group is made on loopback for local ranks, or is torch's default group where the program was
started by torchrun or an engine like it (`GroupEndpoint`). Tensors are CPU tensors, so the group
needs a backend for them: Gloo, or MPI where torch was built with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import queue
import threading
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.env import require_torch
from dmlf.errors import DeadlineExceeded, PeerLost, TransportError
from dmlf.protocol import Message, Phase, Tag
from dmlf.transport.base import allocate_plain
from dmlf.transport.registry import register_transport
from dmlf.transport.tcp.sockets import Listener, listen

_PHASES = tuple(Phase)
_HEADER = 8  # generation, step, bucket, phase, round, src, bytes of the payload, dtype
_BYTES, _GOODBYE = -1, -2  # in place of a dtype
_NAMES = ("f4", "f8", "i8", "i4", "i2", "i1", "u1", "u2", "u4", "u8", "f2", "c8", "c16", "?")
_DTYPES = tuple(map(np.dtype, _NAMES))
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}

CONNECT_S = 60.0
_SEND_S = 1800.0
_CLOSE_S = 5.0
_FOREVER = timedelta(days=3650)
"""For torch's own operations: deadlines are kept here, where missing one breaks nothing."""


class GroupTransport:
    """One rank's end of all links through `group`, a torch.distributed process group."""

    def __init__(self, group: Any, rank: int, size: int) -> None:
        self._torch = require_torch()
        self._group = group
        self._rank = rank
        self._peers = [peer for peer in range(size) if peer != rank]
        self._received: dict[int, queue.SimpleQueue[Message | Exception]] = {
            peer: queue.SimpleQueue() for peer in self._peers
        }
        self._threads = [
            threading.Thread(
                target=self._receive_from, args=(peer,), name=f"dmlf-from-{peer}", daemon=True
            )
            for peer in self._peers
        ]
        for thread in self._threads:
            thread.start()

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A plain vector: torch sends from any memory."""
        return allocate_plain(numel, dtype)

    def send(self, dst: int, message: Message) -> int:
        """Hand the message to torch; return when torch needs it no longer.

        Raises PeerLost when the connection is gone.
        """
        payload = message.payload
        if isinstance(payload, bytes):
            code, data = _BYTES, np.frombuffer(bytearray(payload), np.uint8)
        else:
            code = _CODES.get(payload.dtype, _GOODBYE)
            if code == _GOODBYE:
                known = ", ".join(str(dtype) for dtype in _DTYPES)
                raise TransportError(f"a payload of dtype {payload.dtype} is none of {known}")
            data = np.ascontiguousarray(payload).reshape(-1).view(np.uint8)
            if not data.flags.writeable:  # torch has no tensors that only may be read
                data = data.copy()
        self._send(dst, message.tag, code, data)
        return data.size

    def recv(self, src: int, timeout_s: float) -> Message:
        """Return the next message from `src`. Raises DeadlineExceeded, PeerLost."""
        try:
            received = self._received[src].get(timeout=timeout_s)
        except queue.Empty:
            raise DeadlineExceeded(self._rank, src, timeout_s) from None
        if isinstance(received, Exception):
            self._received[src].put(received)
            raise received
        return received

    def all_reduce(self, vector: npt.NDArray[Any], maximum: bool = False) -> None:
        """Replace `vector` by the sum (or maximum) over all ranks, by torch's own collective.

        Raises PeerLost when a connection is gone.
        """
        from torch.distributed import AllreduceOptions, ReduceOp

        options = AllreduceOptions()
        options.reduceOp = ReduceOp(ReduceOp.MAX if maximum else ReduceOp.SUM)
        try:
            work = self._group.allreduce([self._torch.from_numpy(vector)], options)
            work.wait(timedelta(seconds=_SEND_S))
        except RuntimeError as error:
            raise PeerLost("a rank of the group", _first_line(error)) from error

    def close(self) -> None:
        """Say goodbye to every peer, wait for theirs, and let go of the group."""
        if self._group is None:
            return
        for peer in self._peers:
            try:
                self._send(peer, Tag(0, 0, 0, _PHASES[0], 0, 0), _GOODBYE, np.empty(0, np.uint8))
            except PeerLost:
                continue
        for thread in self._threads:
            thread.join(_CLOSE_S)
        self._group = None

    def abandon(self) -> None:
        """Let go of the group; its threads end when its connections do."""
        self._group = None

    def _send(self, dst: int, tag: Tag, code: int, data: npt.NDArray[np.uint8]) -> None:
        generation, step, bucket, phase, round_, src = tag
        header = (generation, step, bucket, _PHASES.index(phase), round_, src, data.size, code)
        parts = [self._torch.tensor(header, dtype=self._torch.int64)]
        if data.size:
            parts.append(self._torch.from_numpy(data))
        try:
            for work in [self._group.send([part], dst, 0) for part in parts]:
                work.wait(timedelta(seconds=_SEND_S))
        except RuntimeError as error:
            raise PeerLost(f"rank {dst}", _first_line(error)) from error

    def _receive_from(self, peer: int) -> None:
        received, torch = self._received[peer], self._torch
        try:
            while True:
                header = torch.empty(_HEADER, dtype=torch.int64)
                self._group.recv([header], peer, 0).wait(_FOREVER)
                *place, num_bytes, code = header.tolist()
                if code == _GOODBYE:
                    received.put(PeerLost(f"rank {peer}", "it closed its transport"))
                    return
                data = torch.empty(num_bytes, dtype=torch.uint8)
                if num_bytes:
                    self._group.recv([data], peer, 0).wait(_FOREVER)
                generation, step, bucket, phase, round_, src = place
                tag = Tag(generation, step, bucket, _PHASES[phase], round_, src)
                array = data.numpy()
                received.put(
                    Message(tag, array.tobytes() if code == _BYTES else array.view(_DTYPES[code]))
                )
        except RuntimeError as error:
            received.put(PeerLost(f"rank {peer}", _first_line(error)))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


@dataclass(frozen=True, slots=True)
class LocalGroupEndpoint:
    """A rank's place in a Gloo group of this host; rank 0 holds the listener of its store."""

    rank: int
    size: int
    port: int
    listener: Listener | None

    def connect(self) -> GroupTransport:
        """Meet the other ranks at the store and connect to them.

        Raises TransportError, naming who is missing, after CONNECT_S.
        """
        require_torch()
        dist: Any = importlib.import_module("torch.distributed")  # its types lack what is used

        host = "127.0.0.1"
        descriptor = self.listener.take().detach() if self.listener else None
        store = dist.TCPStore(
            host,
            self.port,
            self.size,
            self.rank == 0,
            timedelta(seconds=CONNECT_S),
            wait_for_workers=False,
            master_listen_fd=descriptor,
        )
        store.set(f"here/{self.rank}", "1")
        try:
            store.wait([f"here/{rank}" for rank in range(self.size)])
        except RuntimeError as error:
            missing = [rank for rank in range(self.size) if not store.check([f"here/{rank}"])]
            raise TransportError(f"ranks {missing} did not come within {CONNECT_S:g} s") from error
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = _FOREVER
        group = dist.ProcessGroupGloo(store, self.rank, self.size, options)
        return GroupTransport(group, self.rank, self.size)


@dataclass(frozen=True, slots=True)
class GroupEndpoint:
    """This process's place in torch's default group, as torchrun's environment tells it."""

    rank: int
    size: int

    def connect(self) -> GroupTransport:
        """Join torch's default process group, making it first if nobody has.

        Raises TransportError when the other ranks do not come or the environment is wrong.
        """
        require_torch()
        import torch.distributed as dist

        if not dist.is_initialized():
            try:
                dist.init_process_group("gloo", timeout=_FOREVER)
            except (RuntimeError, ValueError) as error:
                raise TransportError(
                    f"torch.distributed could not form its group: {_first_line(error)}; "
                    "start the program with torchrun"
                ) from error
        return GroupTransport(dist.group.WORLD, self.rank, self.size)


@register_transport("process_group")
def create_endpoints(_context: BaseContext, group_size: int) -> list[LocalGroupEndpoint]:
    """Make the places of a Gloo group on loopback. Raises DependencyMissing without torch."""
    if importlib.util.find_spec("torch") is None:
        require_torch()  # the launcher itself needs no torch, and importing it takes seconds
    listener = listen()
    _, port = listener.address
    return [
        LocalGroupEndpoint(rank, group_size, port, listener if rank == 0 else None)
        for rank in range(group_size)
    ]
