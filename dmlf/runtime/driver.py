"""Drives a protocol over a transport: the only place where effects meet the outside world."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy.typing as npt

from dmlf.errors import DeadlineExceeded
from dmlf.protocol import (
    Accumulator,
    Apply,
    Effect,
    Gradient,
    Message,
    ReadParameters,
    Recv,
    Send,
    Steps,
    WriteParameters,
)
from dmlf.transport import Transport, allocate_plain

SLICE_S = 0.25
"""How long a wait that can be interrupted goes without looking."""
Result = TypeVar("Result")
Observer = Callable[[Effect, float, float], None]
"""Told of an effect when it is fulfilled: (effect, start, end), in seconds on CLOCK_MONOTONIC."""


class Local(Protocol):
    """What a rank holds itself: gradients, parameters and their optimizer."""

    def gradient(self, step: int, bucket: int) -> Accumulator:
        """The accumulator of a bucket, with this rank's gradient in it."""

    def apply(self, step: int) -> None:
        """Let the optimizer apply the reduced gradients of all buckets."""

    def read_parameters(self, bucket: int) -> Any:
        """The parameters of a bucket as one flat float32 vector."""

    def write_parameters(self, bucket: int, payload: Any) -> None:
        """Replace the parameters of a bucket."""


class NoTransport:
    """The transport of a rank without peers; any message would be a bug of the protocol."""

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A plain vector."""
        return allocate_plain(numel, dtype)

    def send(self, dst: int, message: Message) -> int:
        """Refuse."""
        raise AssertionError(f"a rank without peers sent {message.tag} to rank {dst}")

    def recv(self, src: int, timeout_s: float) -> Message:
        """Refuse."""
        raise AssertionError(f"a rank without peers waits for rank {src}")

    def close(self) -> None:
        """Nothing to free."""

    def abandon(self) -> None:
        """Nothing to free."""


class Driver:
    """Fulfils a protocol's effects and counts what it costs.

    timeout_s bounds each wait for a message, and may be changed between protocols. interrupt is
    called in every SLICE_S of a wait, and ends it by raising; a message that is there already is
    never delayed by it.
    Counters grow over all protocols driven: `messages_sent`, `payload_bytes_sent`, `wait_s`
    (seconds blocked in a receive) and `apply_s` (seconds in the optimizer). `observer` is told of
    every effect.
    """

    def __init__(
        self,
        transport: Transport,
        local: Local,
        timeout_s: float,
        observer: Observer | None = None,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self._transport = transport
        self._local = local
        self.timeout_s = timeout_s
        self._receive = transport.recv
        if interrupt is not None:
            self._interrupt = interrupt
            self._receive = self._receive_in_slices
        self.messages_sent = 0
        self.payload_bytes_sent = 0
        self.wait_s = 0.0
        self.apply_s = 0.0
        self._fulfil: dict[type[Effect], Callable[[Any], Any]] = {
            Send: self._send,
            Recv: self._recv,
            Gradient: lambda effect: local.gradient(effect.step, effect.bucket),
            Apply: self._apply,
            ReadParameters: lambda effect: local.read_parameters(effect.bucket),
            WriteParameters: lambda effect: local.write_parameters(effect.bucket, effect.payload),
        }
        if observer is not None:
            self._fulfil = {
                kind: _observed(fulfil, observer) for kind, fulfil in self._fulfil.items()
            }

    def run(self, protocol: Steps[Result]) -> Result:
        """Drive `protocol` to its end and return its result; its errors pass through."""
        answer: Any = None
        while True:
            try:
                effect = protocol.send(answer)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            answer = self._fulfil[type(effect)](effect)

    def _send(self, effect: Send) -> None:
        message = Message(effect.tag, effect.payload)
        self.payload_bytes_sent += self._transport.send(effect.dst, message)
        self.messages_sent += 1

    def _recv(self, effect: Recv) -> Message:
        start = time.monotonic()
        message = self._receive(effect.src, self.timeout_s)
        self.wait_s += time.monotonic() - start
        return message

    def _receive_in_slices(self, src: int, timeout_s: float) -> Message:
        deadline = time.monotonic() + timeout_s
        while True:
            remaining_s = max(0.0, deadline - time.monotonic())
            try:
                return self._transport.recv(src, min(SLICE_S, remaining_s))
            except DeadlineExceeded as error:  # the transport keeps what has come of a message
                self._interrupt()
                if remaining_s <= SLICE_S:
                    raise DeadlineExceeded(error.rank, src, timeout_s) from None

    def _apply(self, effect: Apply) -> None:
        start = time.monotonic()
        self._local.apply(effect.step)
        self.apply_s += time.monotonic() - start


def _observed(fulfil: Callable[[Any], Any], observer: Observer) -> Callable[[Any], Any]:
    def fulfil_and_tell(effect: Effect) -> Any:
        start = time.monotonic()
        answer = fulfil(effect)
        observer(effect, start, time.monotonic())
        return answer

    return fulfil_and_tell
