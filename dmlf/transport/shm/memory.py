"""The group's shared memory: one anonymous file, cut into one arena per rank.

An arena begins with words that only its owner writes. In the first cache line: the rank for which
the owner sleeps (plus 1; 0: none). Then, one line per peer: how many of the peer's messages it has
done with. Then come the first segments of tokens,
one per peer, and then what `Arena.take` hands out.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import TransportError

LINE_BYTES = 64
SLOT_BYTES = 256
SEGMENT_SLOTS = 64
SEGMENT_BYTES = SLOT_BYTES * SEGMENT_SLOTS

Bytes = npt.NDArray[np.uint8]


class GroupMemory:
    """The file behind all arenas; travels to the ranks' processes as an inherited descriptor."""

    def __init__(self, descriptor: int, group_size: int, arena_bytes: int) -> None:
        self.descriptor = descriptor
        self.group_size = group_size
        self.arena_bytes = arena_bytes
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def create(cls, group_size: int, arena_bytes: int) -> GroupMemory:
        """A new file of `group_size` arenas; no page of it exists yet."""
        memory = cls(os.memfd_create("dmlf-shm", os.MFD_CLOEXEC), group_size, arena_bytes)
        os.ftruncate(memory.descriptor, group_size * arena_bytes)
        return memory

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand over a duplicate of the descriptor, while a process is being spawned."""
        return _inherit, (reduction.DupFd(self.descriptor), self.group_size, self.arena_bytes)

    def start(self, rank: int) -> int:
        """Where the arena of `rank` begins."""
        return rank * self.arena_bytes

    def sleep_flag(self, rank: int) -> int:
        """Where `rank` writes for whom it sleeps."""
        return self.start(rank)

    def done_count(self, rank: int, src: int) -> int:
        """Where `rank` writes how many messages from `src` it has done with."""
        return self.start(rank) + LINE_BYTES * (1 + src)

    def first_segment(self, src: int, dst: int) -> int:
        """Where the tokens of the link from `src` to `dst` begin."""
        return self._segments(src) + dst * SEGMENT_BYTES

    def heap(self, rank: int) -> int:
        """Where the memory begins that `rank` may hand out."""
        return self._segments(rank) + self.group_size * SEGMENT_BYTES

    def _segments(self, rank: int) -> int:
        header = LINE_BYTES * (1 + self.group_size)
        return self.start(rank) + -(-header // mmap.PAGESIZE) * mmap.PAGESIZE


def _inherit(duplicate: Any, group_size: int, arena_bytes: int) -> GroupMemory:
    return GroupMemory(duplicate.detach(), group_size, arena_bytes)


def physical_bytes() -> int:
    """This machine's memory, in whole pages: no arena can hold more."""
    return os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


class Arena:
    """One rank's own arena, mapped for writing. Offsets are those of the group's file.

    view: all bytes of the arena. bytes, words: the same as memoryviews of `B` and `Q`.
    """

    def __init__(self, memory: GroupMemory, rank: int) -> None:
        mapping = map_file(memory, memory.start(rank), memory.arena_bytes, mmap.PROT_WRITE)
        self.rank = rank
        self.start = memory.start(rank)
        self.view: Bytes = np.frombuffer(mapping, dtype=np.uint8)
        self.address = self.view.ctypes.data
        self.bytes = memoryview(mapping)
        self.words = self.bytes.cast("Q")
        self._size = memory.arena_bytes
        self._free = memory.heap(rank) - self.start

    def take(self, num_bytes: int) -> int:
        """The offset of `num_bytes` never used before: zero, aligned to a cache line.

        Raises TransportError when the arena has no room for them.
        """
        offset = self._free
        if num_bytes > self._size - offset:
            raise TransportError(
                f"rank {self.rank} needs {num_bytes} bytes of shared memory, but its arena has "
                f"{self._size - offset} of {self._size} left; use a smaller model or bucket"
            )
        self._free = offset + -(-num_bytes // LINE_BYTES) * LINE_BYTES
        return self.start + offset

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A vector of zeros [numel] in this arena, which lives as long as the transport."""
        num_bytes = numel * np.dtype(dtype).itemsize
        offset = self.take(num_bytes) - self.start
        return self.view[offset : offset + num_bytes].view(dtype)

    def offset_of(self, array: npt.NDArray[Any]) -> int | None:
        """Where `array` lies in the group's file; None if it is not all in this arena."""
        if array.base is self.view and array.size:  # a part of what `allocate` gave: told quickly
            first = ctypes.c_char.from_buffer(array.data)
            return self.start + ctypes.addressof(first) - self.address
        offset: int = array.__array_interface__["data"][0] - self.address
        inside = offset >= 0 and offset + array.nbytes <= self._size
        return self.start + offset if inside else None


def map_file(memory: GroupMemory, start: int, length: int, protection: int) -> mmap.mmap:
    """Map a part of the group's file. Raises TransportError when the system refuses."""
    try:
        return mmap.mmap(
            memory.descriptor,
            length,
            flags=mmap.MAP_SHARED,
            prot=mmap.PROT_READ | protection,
            offset=start,
        )
    except (OSError, ValueError) as error:
        raise TransportError(
            f"cannot map {length} bytes of shared memory ({error}); "
            "raise the limit of address space (ulimit -v) or use the transport queue"
        ) from error
