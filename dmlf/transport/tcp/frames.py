"""The bytes of a message on a connection: a header of 64 bytes, then the payload. No I/O.

A parser says where the next bytes belong (`wants`), is told how many came (`advance`), and
answers with a frame once one is complete; it never asks for a byte beyond the frame. States:

    header --(64 bytes, all checks passed)--> payload --(length bytes, checksum)--> header
       `---------------------- any check failed ----------------------> failed, for ever

The header's checksum is judged before any of its fields, and all fields before memory is taken
for the payload. Errors: FrameError, ChecksumMismatch, SourceMismatch; anything else is a bug.

Checksums are XXH3 (64 bits), seeded by the connection: they find accidents, not attackers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from dmlf.errors import ChecksumMismatch, FrameError, SourceMismatch
from dmlf.protocol import Phase, Tag

MAGIC = b"dmlf"
VERSION = 1
MAX_PAYLOAD_BYTES = 1 << 30
"""The largest payload that ranks send one another."""
PIECE_BYTES = 1 << 19
"""What is read or written at once: it is still in the core's cache when its checksum is made."""

# magic, version, kind, phase, dtype; generation, step; bucket, round, src, dst; length, checksum
_FIELDS = struct.Struct("<4s4BQQ4IQQ")
_CHECKSUM = struct.Struct("<Q")
_CHECKED_BYTES = _FIELDS.size
HEADER_BYTES = _CHECKED_BYTES + _CHECKSUM.size


class Kind(IntEnum):
    """What a frame is for."""

    DATA = 1
    CONTROL = 2


_PHASES = tuple(Phase)  # its code on the wire is the place counted from 1
_BYTES = 0
_NAMES = "? i1 u1 <i2 <u2 <i4 <u4 <i8 <u8 <f2 <f4 <f8 <c8 <c16"
_DTYPES = {code: np.dtype(name) for code, name in enumerate(_NAMES.split(), start=1)}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

checksum = xxhash.xxh3_64_intdigest


@dataclass(frozen=True, slots=True)
class Rules:
    """What one end of a connection accepts. `seed` is the other end's."""

    kind: Kind
    peer: str
    seed: int
    max_payload_bytes: int
    rank: int = 0
    peer_rank: int = 0
    group_size: int = 0


class Frame(NamedTuple):
    """A received frame: `tag` of a DATA frame, None for CONTROL."""

    tag: Tag | None
    payload: Any


class Header(NamedTuple):
    """The fields of a header that has passed."""

    tag: Tag | None
    dtype: npt.DTypeLike | None
    length: int
    checksum: int


def payload_bytes(payload: Any, peer: str) -> tuple[memoryview, int]:
    """The bytes of `payload`, copied only if they are not contiguous, and the code of its dtype.

    Raises FrameError for a dtype that has no code.
    """
    if isinstance(payload, bytes):
        return memoryview(payload), _BYTES
    code = _CODES.get(payload.dtype)
    if code is None:
        raise FrameError(peer, "dtype", str(payload.dtype), "numbers in little-endian order")
    return np.ascontiguousarray(payload).reshape(-1).view(np.uint8).data, code


def encode_data(tag: Tag, dst: int, content: memoryview, dtype: int, rules: Rules) -> bytes:
    """The header of a DATA frame from `rules.rank`. Raises FrameError if a field does not fit."""
    generation, step, bucket, phase, round_, src = tag
    where = (generation, step, bucket, round_, src, dst)
    return _encode(Kind.DATA, _PHASES.index(phase) + 1, dtype, where, content, rules)


def encode_control(content: bytes, rules: Rules) -> bytes:
    """The header of a CONTROL frame. Raises FrameError if it is too long."""
    return _encode(Kind.CONTROL, 0, _BYTES, (0,) * 6, memoryview(content), rules)


def _encode(
    kind: Kind, phase: int, dtype: int, where: tuple[int, ...], content: memoryview, rules: Rules
) -> bytes:
    if content.nbytes > rules.max_payload_bytes:
        allowed = f"at most {rules.max_payload_bytes} bytes; send smaller buckets"
        raise FrameError(rules.peer, "length", content.nbytes, allowed)
    digest = checksum(content, rules.seed)
    try:
        fields = _FIELDS.pack(MAGIC, VERSION, kind, phase, dtype, *where, content.nbytes, digest)
    except struct.error:
        allowed = "generation and step below 2^64, all others below 2^32, none negative"
        raise FrameError(rules.peer, "tag", where, allowed) from None
    return fields + _CHECKSUM.pack(checksum(fields, rules.seed))


def decode(header: bytes | bytearray | memoryview, rules: Rules) -> Header:
    """Check a header of 64 bytes. Raises ChecksumMismatch, FrameError, SourceMismatch."""
    view = memoryview(header)
    if (
        checksum(view[:_CHECKED_BYTES], rules.seed)
        != _CHECKSUM.unpack_from(view, _CHECKED_BYTES)[0]
    ):
        raise ChecksumMismatch(rules.peer, "header")
    magic, version, kind, phase, code, *where, length, digest = _FIELDS.unpack_from(view)
    if magic != MAGIC:
        raise FrameError(rules.peer, "magic", magic, repr(MAGIC))
    if version != VERSION:
        raise FrameError(rules.peer, "version", version, str(VERSION))
    if kind != rules.kind:
        raise FrameError(rules.peer, "kind", kind, f"{rules.kind} ({rules.kind.name})")
    if length > rules.max_payload_bytes:
        raise FrameError(rules.peer, "length", length, f"at most {rules.max_payload_bytes}")
    dtype = _DTYPES.get(code)
    if dtype is None and code != _BYTES:
        raise FrameError(rules.peer, "dtype", code, f"0 to {len(_DTYPES)}")
    if dtype is not None and length % dtype.itemsize:
        raise FrameError(rules.peer, "length", length, f"whole elements of {dtype}")
    tag = _tag(phase, where, rules) if rules.kind is Kind.DATA else None
    if tag is None and (phase, code, *where) != (0,) * 8:
        raise FrameError(rules.peer, "tag", (phase, code, *where), "zeros in a CONTROL frame")
    return Header(tag, dtype, length, digest)


def _tag(phase: int, where: list[int], rules: Rules) -> Tag:
    generation, step, bucket, round_, src, dst = where
    if not 1 <= phase <= len(_PHASES):
        raise FrameError(rules.peer, "phase", phase, f"1 to {len(_PHASES)}")
    if src == rules.rank or src >= rules.group_size:
        allowed = f"another rank of the {rules.group_size} than {rules.rank}"
        raise FrameError(rules.peer, "src", src, allowed)
    tag = Tag(generation, step, bucket, _PHASES[phase - 1], round_, src)
    if src != rules.peer_rank:
        raise SourceMismatch(rules.rank, tag._replace(src=rules.peer_rank), tag)
    if dst != rules.rank:
        raise FrameError(rules.peer, "dst", dst, f"this rank, {rules.rank}")
    return tag


class FrameParser:
    """Makes frames of the bytes of one connection.

    A frame's array lies in the parser's memory: it may be read until `advance` after the next
    frame's header. Memory taken: the longest payload so far, never more than the rules' cap.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._memory: npt.NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._header: Header | None = None
        self._place = self._head
        self._digest: Any = None
        self._failure: Exception | None = None

    @property
    def memory_bytes(self) -> int:
        """What is held for payloads."""
        return self._memory.nbytes

    @property
    def between_frames(self) -> bool:
        """Whether no byte of an unfinished frame has come."""
        return self._header is None and len(self._place) == HEADER_BYTES

    def wants(self) -> memoryview:
        """Where the next bytes belong; never empty. Raises the error that ended this parser."""
        if self._failure is not None:
            raise self._failure
        return self._place

    def advance(self, num_bytes: int) -> Frame | None:
        """Take note that `num_bytes` were written to `wants()`; the frame that they completed.

        Raises FrameError, ChecksumMismatch, SourceMismatch.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._advance(num_bytes)
        except (FrameError, ChecksumMismatch, SourceMismatch) as error:
            self._failure = error
            raise

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Copy `data` to where it belongs; each frame is valid until the next is asked for."""
        view = memoryview(data)
        while view:
            place = self.wants()
            num_bytes = min(len(place), len(view))
            place[:num_bytes] = view[:num_bytes]
            view = view[num_bytes:]
            frame = self.advance(num_bytes)
            if frame is not None:
                yield frame

    def _advance(self, num_bytes: int) -> Frame | None:
        if self._digest is not None:
            self._digest.update(self._place[:num_bytes])
        self._place = self._place[num_bytes:]
        if self._place:
            return None
        if self._header is None:
            self._header = header = decode(self._head, self._rules)
            if header.length > self._memory.nbytes:
                self._memory = np.empty(0, dtype=np.uint8)  # not both at once
                self._memory = np.empty(header.length, dtype=np.uint8)
            if header.length:
                self._place = self._memory[: header.length].data
                if header.length > PIECE_BYTES:
                    self._digest = xxhash.xxh3_64(seed=self._rules.seed)
                return None
        return self._complete(self._header)

    def _complete(self, header: Header) -> Frame:
        content = self._memory[: header.length]
        if self._digest is None:
            digest = checksum(content.data, self._rules.seed)
        else:
            digest, self._digest = self._digest.intdigest(), None
        if digest != header.checksum:
            raise ChecksumMismatch(self._rules.peer, "payload")
        self._header, self._place = None, self._head
        if header.dtype is None:
            return Frame(header.tag, content.tobytes())
        payload = content.view(header.dtype)
        payload.flags.writeable = False
        return Frame(header.tag, payload)
