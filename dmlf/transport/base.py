"""What every transport is: links between ranks that keep order and honour deadlines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmlf.protocol import Message


def allocate_plain(numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A vector of zeros [numel] in this process's own memory."""
    return np.zeros(numel, dtype=dtype)


CLOSE_S = 30.0
"""How long `close` tries to hand over what was sent."""
Interrupt = Callable[[], None]
"""Called now and then during a wait; ends it by raising."""


def never() -> None:
    """Interrupt nothing."""


class Transport(Protocol):
    """One rank's end of the links to all its peers.

    Each link is first-in, first-out and delivers each message once. Used by one thread.
    """

    def allocate(self, numel: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A registered vector of zeros [numel], which this transport may send without a copy.

        It lives as long as the transport. Raises TransportError when there is no room for it.
        """

    def send(self, dst: int, message: Message) -> int:
        """Hand over `message` for rank `dst`; return its payload's size in bytes.

        A payload in a registered vector (see `allocate`), whole or a part, follows the contract
        of the effect `Send`: it keeps its value until `dst` has received it or the step is over.
        Any other payload may be changed by the caller as soon as this returns.
        """

    def recv(self, src: int, timeout_s: float) -> Message:
        """Return the next message from rank `src`.

        The payload may be read, not written, until the next call of `recv` for the same rank.
        Raises DeadlineExceeded when none has come in full within `timeout_s`; what has come of one
        is kept for the next call.
        """

    def close(self) -> None:
        """Deliver what was sent and free the links; the transport cannot be used again.

        Raises TransportError when a peer does not take it within CLOSE_S, or is gone; the links are
        free all the same.
        """

    def abandon(self) -> None:
        """Free the links at once, whatever is on the way: the peers may be gone or hung up."""


class Endpoint(Protocol):
    """A rank's place in a network of links, small enough to travel to the rank's process."""

    def connect(self) -> Transport:
        """Open the transport; called once, in the rank's own process."""
