"""One direction between two ranks: a queue of tokens with one writer and one reader.

Tokens lie in segments of SEGMENT_SLOTS slots. The last slot of a segment says where the next one
begins, so the queue never is full: the writer takes a segment again once the reader has done with
all of it, and a new one otherwise. Slot of message n (from 1): complete when its first word is n.

Source: the linked segments are those of Aldinucci et al., "An efficient unbounded lock-free
queue for multi-core systems", Euro-Par 2012.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from dmlf.errors import TransportError
from dmlf.protocol import Phase, Tag
from dmlf.transport.shm.kernel import order
from dmlf.transport.shm.memory import SEGMENT_BYTES, SEGMENT_SLOTS, SLOT_BYTES, Arena

# generation, step, bucket, phase, round, src; offset and bytes of the payload; next segment; dtype
_TOKEN = struct.Struct("<qqqqqqqqq8s")
_WORD = 8
_INLINE = _WORD + _TOKEN.size
INLINE_BYTES = SLOT_BYTES - _INLINE
"""Payloads up to this size fit into the slot itself."""

_PHASES = tuple(Phase)
_CODES: dict[np.dtype[Any], bytes] = {}
_DTYPES: dict[bytes, np.dtype[Any]] = {}
BYTES = bytes(8)
"""The dtype of a payload that is bytes."""


def dtype_code(dtype: np.dtype[Any]) -> bytes:
    """The dtype as eight bytes. Raises TransportError for anything but numbers."""
    code = _CODES.get(dtype)
    if code is None:
        if dtype.kind not in "biufc":
            raise TransportError(f"a payload of dtype {dtype} cannot be sent; only numbers can")
        code = _CODES[dtype] = dtype.str.encode().ljust(8, b"\0")
    return code


def _dtype_of(code: bytes) -> np.dtype[Any]:
    dtype = _DTYPES[code] = np.dtype(code.rstrip(b"\0").decode())
    return dtype


class Outgoing:
    """The writer's end. All offsets are those of the group's file."""

    def __init__(self, arena: Arena, segment: int, done: Callable[[], int]) -> None:
        self._arena = arena
        self._start = arena.start
        self._slot = segment
        self._left = SEGMENT_SLOTS
        self._in_use = deque([(SEGMENT_SLOTS, segment)])  # (number of its last message, segment)
        self.done = done
        self.sent = 0
        self.lent: deque[tuple[int, int, int]] = deque()

    @property
    def inline(self) -> int:
        """Where a payload of at most INLINE_BYTES may be written to travel in the next token."""
        return self._slot + _INLINE

    def put(self, tag: Tag, offset: int, num_bytes: int, dtype: bytes) -> int:
        """Append a token; return the address of its first word, on which the reader may sleep."""
        generation, step, bucket, phase, round_, src = tag
        slot, index = self._slot, _PHASES.index(phase)  # an enumeration hashes slowly
        self._left -= 1
        following = 0 if self._left else self._next_segment()
        place = slot - self._start
        _TOKEN.pack_into(
            self._arena.bytes,
            place + _WORD,
            *(generation, step, bucket, index, round_, src, offset, num_bytes, following, dtype),
        )
        self.sent += 1
        self._slot = following or slot + SLOT_BYTES
        order()
        self._arena.words[place >> 3] = self.sent
        return self._arena.address + place

    def _next_segment(self) -> int:
        last, segment = self._in_use[0]
        if last <= self.done():
            self._in_use.popleft()
        else:
            segment = self._arena.take(SEGMENT_BYTES)
        self._left = SEGMENT_SLOTS
        self._in_use.append((self.sent + 1 + SEGMENT_SLOTS, segment))
        return segment


class Incoming:
    """The reader's end: `group` and `words` are the group's file as bytes and as words."""

    def __init__(self, group: memoryview, segment: int) -> None:
        self._group = group
        self.slot = segment
        self.received = 0

    def take(self) -> tuple[Tag, int, int, np.dtype[Any] | None]:
        """The complete token in the next slot: tag, and offset, bytes and dtype of the payload."""
        order()
        generation, step, bucket, phase, round_, src, offset, num_bytes, following, code = (
            _TOKEN.unpack_from(self._group, self.slot + _WORD)
        )
        self.slot = following or self.slot + SLOT_BYTES
        self.received += 1
        dtype = None if code == BYTES else _DTYPES.get(code) or _dtype_of(code)
        tag = Tag(generation, step, bucket, _PHASES[phase], round_, src)
        return tag, offset, num_bytes, dtype
