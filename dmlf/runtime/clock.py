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

from dmlf.protocol import Member, Phase, Send, Steps, Tag
from dmlf.protocol.effects import receive

_QUESTIONS = 8
_ANSWER = struct.Struct("<d16s")


def boot_id() -> bytes:
    """16 bytes that name this boot of this machine; zeros where the system does not tell."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return bytes(16)
    return bytes.fromhex(text.strip().replace("-", ""))


def seconds_behind_rank_0(member: Member) -> Steps[float]:
    """What to add to this rank's clock to get rank 0's; 0.0 on the same machine.

    Driven by all ranks at the same point of their run. Cost: 2 * _QUESTIONS messages a rank.
    Raises ProtocolError.
    """
    boot = boot_id()
    at = Tag(member.generation, 0, 0, Phase.CLOCK, 0, member.rank)
    if member.rank == 0:
        for peer in range(1, member.group_size):
            for index in range(_QUESTIONS):
                yield from receive(member, at.of(Phase.CLOCK, index, peer))
                answer = _ANSWER.pack(time.monotonic(), boot)
                yield Send(peer, at.of(Phase.CLOCK, index, 0), answer)
        return 0.0
    best = (float("inf"), 0.0)
    theirs = boot
    for index in range(_QUESTIONS):
        asked = time.monotonic()
        yield Send(0, at.of(Phase.CLOCK, index, member.rank), b"")
        answer = yield from receive(member, at.of(Phase.CLOCK, index, 0))
        answered = time.monotonic()
        moment, theirs = _ANSWER.unpack(answer)
        best = min(best, (answered - asked, moment - (asked + answered) / 2))
    return 0.0 if theirs == boot != bytes(16) else best[1]
