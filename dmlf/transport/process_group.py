"""Transport `process_group`: torch.distributed carries the messages; the engine of clusters.

Each message is two point-to-point operations, a header of HEADER integers and the payload's
bytes. One thread per peer always has the next header's receive posted, so that a send completes
whatever the peer is doing, and another waits until what was sent has gone. So `send` waits for
nobody, and every wait for a message has the caller's own deadline: an operation of
torch.distributed that runs out of time breaks its group.

The group is made on loopback for local ranks, or is torch's default group where the program was
started by torchrun or an engine like it (`GroupEndpoint`). Tensors are CPU tensors, so the group
needs a backend for them: Gloo, or MPI where torch was built with it.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.env import require_torch
from dmlf.errors import DeadlineExceeded, NoAnswer, PeerLost, TransportError
from dmlf.protocol import Message, Phase, Tag
from dmlf.transport.base import CLOSE_S
from dmlf.transport.registered import Registered
from dmlf.transport.registry import register_transport
from dmlf.transport.tcp.sockets import Listener, listen
from dmlf.transport.torch_store import Meeting, distributed, first_line

_PHASES = tuple(Phase)
_HEADER = 8  # generation, step, bucket, phase, round, src, bytes of the payload, dtype
_BYTES, _GOODBYE = -1, -2  # in place of a dtype
_NAMES = ("f4", "f8", "i8", "i4", "i2", "i1", "u1", "u2", "u4", "u8", "f2", "c8", "c16", "?")
_DTYPES = tuple(map(np.dtype, _NAMES))
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}

CONNECT_S = 60.0
"""How long the ranks of a group wait for one another."""
_GOODBYE_S = 5.0
"""How long `close` waits for the last words of its peers, which it can do without."""
_NOTICE_S = 1.0
"""How long after a connection has broken its receiver says which one it was."""
_FOREVER = timedelta(days=3650)
"""For threads that wait for torch: deadlines are kept elsewhere, where missing one breaks nothing.
"""


class GroupTransport:
    """One rank's end of all links through `group`, a torch.distributed process group."""

    def __init__(self, group: Any, rank: int, size: int) -> None:
        self._torch = require_torch()
        self._group = group
        self._rank = rank
        self._peers = [peer for peer in range(size) if peer != rank]
        self._registered = Registered()
        self._received: dict[int, queue.SimpleQueue[Message | PeerLost]] = {
            peer: queue.SimpleQueue() for peer in self._peers
        }
        self._sent: dict[int, queue.SimpleQueue[tuple[Any, Any] | None]] = {
            peer: queue.SimpleQueue() for peer in self._peers
        }
        self._lost: dict[int, PeerLost] = {}
        self._has_lost = threading.Event()
        self._receivers = self._start(self._receive_from, "from")
        self._senders = self._start(self._wait_for_sends_to, "to")

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A plain vector, remembered: torch may read it after `send`."""
        return self._registered.allocate(numel, dtype)

    def send(self, dst: int, message: Message) -> int:
        """Hand the message, or a copy where it may be changed, to torch.

        Raises PeerLost when the connection is gone.
        """
        if dst in self._lost:
            raise self._lost[dst]
        payload = message.payload
        if isinstance(payload, bytes):
            code, data = _BYTES, np.frombuffer(bytearray(payload), np.uint8)
        else:
            code = _CODES.get(payload.dtype, _GOODBYE)
            if code == _GOODBYE:
                known = ", ".join(str(dtype) for dtype in _DTYPES)
                raise TransportError(f"a payload of dtype {payload.dtype} is none of {known}")
            # torch has no tensors that only may be read
            as_it_is = self._registered.holds(payload) and payload.flags.writeable
            data = (payload if as_it_is else payload.copy()).reshape(-1).view(np.uint8)
        self._send(dst, message.tag, code, data)
        return data.size

    def recv(self, src: int, timeout_s: float) -> Message:
        """Return the next message from `src`. Raises DeadlineExceeded, PeerLost."""
        try:
            received = self._received[src].get(timeout=timeout_s)
        except queue.Empty:
            raise DeadlineExceeded(self._rank, src, timeout_s) from None
        if isinstance(received, PeerLost):
            self._received[src].put(received)
            raise received
        return received

    def all_reduce(self, vector: npt.NDArray[Any], timeout_s: float, maximum: bool = False) -> None:
        """Replace `vector` by the sum (or maximum) over all ranks, by torch's own collective.

        After an error the group is of no more use. Raises PeerLost when a connection is gone,
        NoAnswer after `timeout_s`.
        """
        from torch.distributed import AllreduceOptions, ReduceOp

        timeout = timedelta(seconds=timeout_s)
        options = AllreduceOptions()
        options.reduceOp = ReduceOp(ReduceOp.MAX if maximum else ReduceOp.SUM)
        options.timeout = timeout
        deadline = time.monotonic() + timeout_s
        try:
            self._group.allreduce([self._torch.from_numpy(vector)], options).wait(timeout)
        except RuntimeError as error:
            if time.monotonic() >= deadline:
                others = f"one of {_names(self._peers)}"
                raise NoAnswer(others, timeout_s, "in torch's all-reduce") from error
            self._has_lost.wait(_NOTICE_S)
            lost = _names(sorted(self._lost) or self._peers)
            raise PeerLost(lost, first_line(error)) from error

    def close(self) -> None:
        """Say goodbye to every peer, wait until all has gone, and let go of the group.

        Raises DeadlineExceeded of a peer that does not take it within CLOSE_S.
        """
        if self._group is None:
            return
        deadline = time.monotonic() + CLOSE_S
        for peer in self._peers:
            try:
                self._send(peer, Tag(0, 0, 0, _PHASES[0], 0, 0), _GOODBYE, np.empty(0, np.uint8))
            except PeerLost:
                continue
        late = []
        for peer in self._peers:
            self._sent[peer].put(None)
            if not _ends(self._senders[peer], deadline):
                late.append(peer)
        if not late:
            deadline = time.monotonic() + _GOODBYE_S
            for receiver in self._receivers.values():
                _ends(receiver, deadline)
        self.abandon()
        if late:
            raise DeadlineExceeded(self._rank, late[0], CLOSE_S)

    def abandon(self) -> None:
        """Let go of the group; threads that wait for it end when its connections do."""
        self._group = None
        for sent in self._sent.values():
            sent.put(None)

    def _start(self, work: Callable[[int], None], name: str) -> dict[int, threading.Thread]:
        threads = {}
        for peer in self._peers:
            thread = threading.Thread(
                target=work, args=(peer,), name=f"dmlf-{name}-{peer}", daemon=True
            )
            thread.start()
            threads[peer] = thread
        return threads

    def _send(self, dst: int, tag: Tag, code: int, data: npt.NDArray[np.uint8]) -> None:
        group = self._group
        if group is None:
            raise PeerLost(f"rank {dst}", "this end was closed")
        generation, step, bucket, phase, round_, src = tag
        header = (generation, step, bucket, _PHASES.index(phase), round_, src, data.size, code)
        parts = [self._torch.tensor(header, dtype=self._torch.int64)]
        if data.size:
            parts.append(self._torch.from_numpy(data))
        try:
            for part in parts:
                self._sent[dst].put((group.send([part], dst, 0), part))
        except RuntimeError as error:
            raise PeerLost(f"rank {dst}", first_line(error)) from error

    def _wait_for_sends_to(self, peer: int) -> None:
        """Keep what torch reads until it has gone."""
        try:
            for sent in iter(self._sent[peer].get, None):
                work, _part = sent
                work.wait(_FOREVER)
                del sent, work, _part  # not kept until the next one comes
        except RuntimeError as error:
            self._lose(peer, first_line(error))

    def _receive_from(self, peer: int) -> None:
        torch = self._torch
        header = torch.empty(_HEADER, dtype=torch.int64)
        try:
            while self._receive_into(header, peer):
                *place, num_bytes, code = header.tolist()
                if code == _GOODBYE:
                    self._lose(peer, "it closed its transport")
                    return
                data = torch.empty(num_bytes, dtype=torch.uint8)
                if num_bytes and not self._receive_into(data, peer):
                    return
                generation, step, bucket, phase, round_, src = place
                tag = Tag(generation, step, bucket, _PHASES[phase], round_, src)
                array = data.numpy()
                payload = array.tobytes() if code == _BYTES else array.view(_DTYPES[code])
                self._received[peer].put(Message(tag, payload))
        except RuntimeError as error:
            self._lose(peer, first_line(error))

    def _receive_into(self, tensor: Any, peer: int) -> bool:
        """Wait for what comes next; False if this end is closed. Keeps no group from its end."""
        group = self._group
        if group is None:
            return False
        work = group.recv([tensor], peer, 0)
        del group
        work.wait(_FOREVER)
        return True

    def _lose(self, peer: int, detail: str) -> None:
        """The link with `peer` has ended; what came before is received first."""
        lost = self._lost.setdefault(peer, PeerLost(f"rank {peer}", detail))
        self._received[peer].put(lost)
        self._has_lost.set()


def _ends(thread: threading.Thread, deadline: float) -> bool:
    """Whether `thread` has ended by then."""
    thread.join(max(0.0, deadline - time.monotonic()))
    return not thread.is_alive()


def _names(ranks: list[int]) -> str:
    return ", ".join(f"rank {rank}" for rank in ranks)


@dataclass(frozen=True, slots=True)
class LocalGroupEndpoint:
    """A rank's place in a Gloo group of this host; rank 0 holds the listener of its store."""

    rank: int
    size: int
    port: int
    listener: Listener | None

    def connect(self) -> GroupTransport:
        """Meet the other ranks at the store and connect to them.

        Raises RendezvousError, naming who is missing, after CONNECT_S.
        """
        dist = distributed()
        host = "127.0.0.1"
        descriptor = self.listener.take().detach() if self.listener else None
        meeting = Meeting(self.rank, self.size, CONNECT_S)
        store = meeting.open(host, self.port, self.rank == 0, descriptor)

        def make(timeout: timedelta) -> Any:
            options = dist.ProcessGroupGloo._Options()
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
            options._timeout = timeout  # of connecting: what comes later brings its own
            return dist.ProcessGroupGloo(store, self.rank, self.size, options)

        return GroupTransport(meeting.join(store, make), self.rank, self.size)


@dataclass(frozen=True, slots=True)
class GroupEndpoint:
    """This process's place in torch's default group, as torchrun's environment tells it.

    timeout_s: of collectives that others than this transport call on a group that it has made.
    """

    rank: int
    size: int
    timeout_s: float = CONNECT_S

    def connect(self) -> GroupTransport:
        """Join torch's default process group, making it first if nobody has.

        Raises RendezvousError, naming who is missing, after CONNECT_S; TransportError when the
        environment is wrong.
        """
        dist = distributed()
        if not dist.is_initialized():
            try:
                self._initialize(dist)
            except (KeyError, ValueError) as error:
                raise TransportError(
                    f"torch.distributed could not form its group: {first_line(error)}; "
                    "start the program with torchrun"
                ) from error
        return GroupTransport(dist.group.WORLD, self.rank, self.size)

    def _initialize(self, dist: Any) -> None:
        meeting = Meeting(self.rank, self.size, CONNECT_S)
        # Else rank 0 serves the store itself: what torch's own rendezvous does, where nobody could
        # say who is missing.
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = meeting.open(*address, self.rank == 0 and not served)
        meeting.join(
            store,
            lambda timeout: dist.init_process_group(
                "gloo", store=store, rank=self.rank, world_size=self.size, timeout=timeout
            ),
        )
        group = dist.group.WORLD._get_backend(require_torch().device("cpu"))
        group._set_default_timeout(timedelta(seconds=self.timeout_s))


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
