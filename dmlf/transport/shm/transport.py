"""One rank's end of all its links through shared memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import DeadlineExceeded, TransportError
from dmlf.protocol import Message
from dmlf.transport.registry import register_transport
from dmlf.transport.shm import kernel
from dmlf.transport.shm.links import BYTES, INLINE_BYTES, Incoming, Outgoing, dtype_code
from dmlf.transport.shm.memory import Arena, Bytes, GroupMemory, map_file, physical_bytes
from dmlf.transport.shm.staging import Staging
from dmlf.transport.waiting import LOOK_S, may_look


class ShmTransport:
    """One rank's own arena, and its view of all others."""

    def __init__(self, endpoint: ShmEndpoint) -> None:
        memory, rank = endpoint.memory, endpoint.rank
        kernel.register()
        self._rank = rank
        self._arena = Arena(memory, rank)
        self._staging = Staging(self._arena)
        group = map_file(memory, 0, memory.group_size * memory.arena_bytes, 0)
        self._group = memoryview(group)
        self._words = self._group.cast("Q")
        self._view: Bytes = np.frombuffer(group, dtype=np.uint8)
        self._address = self._view.ctypes.data
        peers = [peer for peer in range(memory.group_size) if peer != rank]
        self._outgoing = {
            peer: Outgoing(
                self._arena,
                memory.first_segment(rank, peer),
                partial(self._words.__getitem__, memory.done_count(peer, rank) >> 3),
            )
            for peer in peers
        }
        self._incoming = {
            peer: Incoming(self._group, memory.first_segment(peer, rank)) for peer in peers
        }
        self._peer_flags = {peer: memory.sleep_flag(peer) >> 3 for peer in peers}
        own = self._arena.start
        self._own_flag = (memory.sleep_flag(rank) - own) >> 3
        self._done_words = {peer: (memory.done_count(rank, peer) - own) >> 3 for peer in peers}

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A registered vector of zeros: sent without a copy. Raises TransportError when full."""
        return self._arena.allocate(numel, dtype)

    def send(self, dst: int, message: Message) -> int:
        """Append a token to the link to `dst`, and wake `dst` if it sleeps for this link."""
        link, payload = self._outgoing[dst], message.payload
        if isinstance(payload, bytes):
            num_bytes, code, offset = len(payload), BYTES, None
        else:
            num_bytes, code, offset = payload.nbytes, dtype_code(payload.dtype), None
            if payload.flags.c_contiguous:
                offset = self._arena.offset_of(payload)
        if offset is None:
            offset = self._copy(link, payload, num_bytes)
        address = link.put(message.tag, offset, num_bytes, code)
        if self._words[self._peer_flags[dst]] == self._rank + 1:
            kernel.wake(address)
        return num_bytes

    def recv(self, src: int, timeout_s: float) -> Message:
        """Return the next message from `src`; its array reads the sender's memory in place.

        Raises DeadlineExceeded.
        """
        link = self._incoming[src]
        kernel.order()  # the message before was read before the sender may use its place again
        self._arena.words[self._done_words[src]] = link.received
        if self._words[link.slot >> 3] != link.received + 1:
            self._wait(src, link.slot, link.received + 1, timeout_s)
        tag, offset, num_bytes, dtype = link.take()
        if dtype is None:
            return Message(tag, bytes(self._group[offset : offset + num_bytes]))
        return Message(tag, self._view[offset : offset + num_bytes].view(dtype))

    def close(self) -> None:
        """Let go of the memory, which is freed with the last array on it, of any rank.

        What was sent has been delivered: its receivers map this arena themselves.
        """
        self.__dict__.clear()

    def abandon(self) -> None:
        """Let go of the memory."""
        self.__dict__.clear()

    def _copy(self, link: Outgoing, payload: Any, num_bytes: int) -> int:
        """Copy `payload` to where its receiver can read it; return the offset."""
        if num_bytes <= INLINE_BYTES:
            offset = link.inline
        else:
            self._staging.give_back(link.lent, link.done())
            bits, offset = self._staging.take(num_bytes)
            link.lent.append((link.sent + 1, bits, offset))
        start = offset - self._arena.start
        if isinstance(payload, bytes):
            self._arena.bytes[start : start + num_bytes] = payload
        else:
            place = self._arena.view[start : start + num_bytes].view(payload.dtype)
            place.reshape(payload.shape)[...] = payload
        return offset

    def _wait(self, src: int, slot: int, number: int, timeout_s: float) -> None:
        """Return when the word at `slot` is `number`: look for it a while, then sleep."""
        deadline = time.monotonic() + timeout_s
        own, words = self._arena.words, self._words
        if may_look() and self._look(slot >> 3, number, timeout_s):
            return
        own[self._own_flag] = src + 1
        try:
            while True:
                kernel.fence()
                seen = words[slot >> 3]
                if seen == number:
                    return
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0.0:
                    raise DeadlineExceeded(self._rank, src, timeout_s)
                kernel.wait_while(self._address + slot, seen & 0xFFFFFFFF, remaining_s)
        finally:
            own[self._own_flag] = 0

    def _look(self, index: int, number: int, timeout_s: float) -> bool:
        """Look at the word until it is `number`; False if it is not for LOOK_S."""
        words, until = self._words, time.monotonic() + min(LOOK_S, timeout_s)
        while True:
            os.sched_yield()
            if words[index] == number:
                return True
            if time.monotonic() >= until:
                return False


@dataclass(frozen=True, slots=True)
class ShmEndpoint:
    """A rank's place in the group's memory."""

    rank: int
    memory: GroupMemory

    def connect(self) -> ShmTransport:
        """Map the memory in the rank's process."""
        return ShmTransport(self)


@register_transport("shm")
def create_endpoints(
    _context: BaseContext, group_size: int, arena_bytes: int | None = None
) -> list[ShmEndpoint]:
    """Make the shared memory of a fully connected group of `group_size` ranks.

    arena_bytes: address space of each rank, whole pages; this machine's memory by default.
    """
    memory = create_memory(group_size, arena_bytes)
    return [ShmEndpoint(rank, memory) for rank in range(group_size)]


def create_memory(group_size: int, arena_bytes: int | None = None) -> GroupMemory:
    """The memory alone. Raises TransportError where the system lacks what is needed."""
    if not kernel.supported():
        raise TransportError("shm needs Linux on x86-64 or aarch64; use the transport queue")
    return GroupMemory.create(group_size, arena_bytes or physical_bytes())
