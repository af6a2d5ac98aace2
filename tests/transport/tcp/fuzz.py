"""Mutated frames against the parser: `python -m tests.transport.tcp.fuzz 1000000`.

Each stream is valid frames with random damage; half of the damaged headers get valid checksums
again, so that the fields behind the checksum are reached too. A failure prints the stream.
"""

from __future__ import annotations

import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dmlf.errors import ChecksumMismatch, FrameError, SourceMismatch
from dmlf.protocol import Phase, Tag
from dmlf.transport.tcp.frames import (
    HEADER_BYTES,
    FrameParser,
    Kind,
    Rules,
    checksum,
    encode_data,
    payload_bytes,
)

CAP = 4096
SEED = 99
RECEIVING = Rules(Kind.DATA, "rank 2", SEED, CAP, rank=1, peer_rank=2, group_size=4)
SENDING = Rules(Kind.DATA, "rank 1", SEED, CAP, rank=2, peer_rank=1, group_size=4)
CLOSED_SET = (FrameError, ChecksumMismatch, SourceMismatch)
INTERESTING = (0, 1, 2, 3, 4, 5, 127, 128, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
HANG_S = 50


def _valid(payload: Any, phase: Phase, round_: int) -> bytes:
    content, dtype = payload_bytes(payload, "rank 1")
    tag = Tag(0, 5, 1, phase, round_, 2)
    return encode_data(tag, 1, content, dtype, SENDING) + bytes(content)


VALID = [
    _valid(payload, phase, round_)
    for round_, payload in enumerate(
        (b"", b"x", bytes(200), np.arange(9, dtype="f4"), np.arange(33, dtype="i8"))
    )
    for phase in (Phase.PUSH, Phase.COMMIT)
]


def mutated(random: np.random.Generator) -> bytes:
    """One to three frames with one to four changes."""
    picks = random.integers(0, 1 << 30, size=24).tolist()
    pick = picks.pop
    stream = bytearray(b"".join(VALID[pick() % len(VALID)] for _ in range(1 + pick() % 3)))
    for _ in range(1 + pick() % 4):
        kind, place = pick() % 6, pick() % max(1, len(stream))
        if kind == 0 and stream:
            stream[place] ^= 1 << pick() % 8
        elif kind == 1:
            del stream[place:]
        elif kind == 2:
            stream[place:place] = stream[: pick() % 80]
        elif kind == 3:
            del stream[place : place + pick() % 9]
        elif kind == 4 and len(stream) >= HEADER_BYTES:
            width, value = (("<B", 1), ("<I", 4), ("<Q", 8))[pick() % 3], pick()
            at = value % (HEADER_BYTES - 7)
            number = INTERESTING[value % len(INTERESTING)] % (1 << 8 * width[1])
            struct.pack_into(width[0], stream, at, number)
        else:
            stream[place : place + 4] = pick().to_bytes(4, "little")
    if picks[0] % 2 and len(stream) >= HEADER_BYTES:
        seal(stream)
    return bytes(stream)


def seal(stream: bytearray) -> None:
    """Give the first header valid checksums for what follows it."""
    length = int.from_bytes(stream[40:48], "little")
    content = bytes(stream[HEADER_BYTES : HEADER_BYTES + min(length, CAP)])
    stream[48:56] = checksum(content, SEED).to_bytes(8, "little")
    stream[56:64] = checksum(bytes(stream[:56]), SEED).to_bytes(8, "little")


def check(stream: bytes, splits: Sequence[int]) -> str:
    """Parse `stream` in pieces of the given sizes, then the rest; how it ended."""
    parser, num_frames, start = FrameParser(RECEIVING), 0, 0
    try:
        for size in (*splits, len(stream)):
            for frame in parser.feed(stream[start : start + size]):
                num_frames += 1
                assert frame.tag is not None
                assert frame.tag.src == 2
                assert len(bytes(frame.payload)) <= CAP
            start += size
            assert parser.memory_bytes <= CAP
        outcome = "whole frames" if parser.between_frames else "an unfinished frame"
    except CLOSED_SET as error:
        outcome = f"{type(error).__name__} {getattr(error, 'field', getattr(error, 'part', ''))}"
    assert parser.memory_bytes <= CAP
    assert num_frames <= 1 + len(stream) // HEADER_BYTES
    return outcome


def main(num_streams: int) -> None:
    """Check that many streams; prints how they ended."""
    outcomes: Counter[str] = Counter()
    start = time.perf_counter()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a parser that hangs ends this process
    for number in range(num_streams):
        if number % 10_000 == 0:
            signal.alarm(HANG_S)
        random = np.random.Generator(np.random.SFC64(number))
        stream = mutated(random)
        try:
            outcomes[check(stream, [1 + number % 97] if number % 3 else [])] += 1
        except BaseException:
            print(f"stream {number}: {stream.hex()}", file=sys.stderr)
            raise
    signal.alarm(0)
    for outcome, count in outcomes.most_common():
        print(f"{count:9d} {outcome}")
    print(f"{num_streams} streams in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]))
