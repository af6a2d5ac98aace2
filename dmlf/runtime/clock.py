"""How far the clock of another host is from rank 0's, for timelines of runs on several hosts.

CLOCK_MONOTONIC counts from the boot of a machine. Ranks of one boot share it and need no
correction; others ask rank 0 for the time, and take the answer of the shortest round trip to have
been given in its middle.

Source: Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

from dmlf.protocol import Message, Phase, Tag
from dmlf.transport import Transport

_QUESTIONS = 8
_ANSWER = struct.Struct("<d16s")


def boot_id() -> bytes:
    """16 bytes that name this boot of this machine; zeros where the system does not tell."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return bytes(16)
    return bytes.fromhex(text.strip().replace("-", ""))


def seconds_behind_rank_0(
    transport: Transport, rank: int, group_size: int, timeout_s: float
) -> float:
    """What to add to this rank's clock to get rank 0's; 0.0 on the same machine.

    All ranks call it at the same point of their run. Cost: 2 * _QUESTIONS messages a rank.
    Raises TransportError.
    """
    boot = boot_id()

    def tag(index: int, src: int) -> Tag:
        return Tag(0, 0, 0, Phase.CLOCK, index, src)

    if rank == 0:
        for peer in range(1, group_size):
            for index in range(_QUESTIONS):
                transport.recv(peer, timeout_s)
                answer = _ANSWER.pack(time.monotonic(), boot)
                transport.send(peer, Message(tag(index, 0), answer))
        return 0.0
    best = (float("inf"), 0.0)
    theirs = boot
    for index in range(_QUESTIONS):
        asked = time.monotonic()
        transport.send(0, Message(tag(index, rank), b""))
        moment, theirs = _ANSWER.unpack(transport.recv(0, timeout_s).payload)
        answered = time.monotonic()
        best = min(best, (answered - asked, moment - (asked + answered) / 2))
    return 0.0 if theirs == boot != bytes(16) else best[1]
