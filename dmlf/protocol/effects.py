"""What a protocol may ask of the world that drives it.

A protocol is a generator: it yields effects and is resumed with their results. It holds no
socket, process, thread, clock, file or tensor library, so the same object runs over a real
transport, in the deterministic simulator, and in unit tests with mock tensors.

Effects, tags and messages are named tuples: as immutable as frozen dataclasses, and made in half
the time, which a small all-reduce mostly consists of.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from dmlf.protocol.tags import Message, Tag, validate


class Send(NamedTuple):
    """Send `payload` to rank `dst`. Result: None.

    Links are first-in, first-out. The payload must keep its value until `dst` has received it
    or the step is over; transports that copy are free to copy.
    """

    dst: int
    tag: Tag
    payload: Any


class Recv(NamedTuple):
    """Wait for the next message on the link from rank `src`. Result: a Message.

    `tag` is what the protocol expects, for deadlines, traces and fault plans; the protocol
    itself compares. The payload is valid until the protocol yields its next effect; where that is
    a Recv from another rank, both payloads are valid together, and so on.
    """

    src: int
    tag: Tag


class Gradient(NamedTuple):
    """Wait until this rank's own gradient of a bucket is complete. Result: an Accumulator.

    A server asks for the buckets that it owns only; as it has no gradient of its own, the
    Accumulator is empty.
    """

    step: int
    bucket: int


class Apply(NamedTuple):
    """Let the optimizer apply the reduced gradients of `step`. Result: None.

    Of all buckets; on a server, of those that it owns. Yielded only when the step is committed:
    every rank's gradient is in every bucket's sum.
    """

    step: int


class ReadParameters(NamedTuple):
    """Read the parameters of a bucket after Apply, to send them. Result: a payload."""

    bucket: int


class WriteParameters(NamedTuple):
    """Replace this rank's parameters of a bucket by those received. Result: None."""

    bucket: int
    payload: Any


Effect = Send | Recv | Gradient | Apply | ReadParameters | WriteParameters
Result = TypeVar("Result")
Steps = Generator[Effect, Any, Result]


@dataclass(frozen=True, slots=True)
class Member:
    """One rank's place in its group: workers are 0 .. world_size - 1, servers follow."""

    rank: int
    world_size: int
    num_servers: int = 0
    generation: int = 0

    @property
    def group_size(self) -> int:
        """Workers and servers together."""
        return self.world_size + self.num_servers

    @property
    def servers(self) -> range:
        """The ranks of the servers."""
        return range(self.world_size, self.group_size)


def receive(member: Member, expected: Tag) -> Steps[Any]:
    """Receive the message `expected` from its source and return its payload.

    Raises the ProtocolError that names the first field in which the message differs.
    """
    message: Message = yield Recv(expected.src, expected)
    validate(member.rank, expected, message.tag)
    return message.payload
