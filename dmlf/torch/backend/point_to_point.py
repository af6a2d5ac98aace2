"""Messages between two ranks, matched by source and tag, in any order of sends and receives.

A send is over as soon as the transport has the data, so it never waits for its receiver. What
comes before anybody has asked for it is kept; it goes to the first receive that matches, as in MPI.
Nothing runs in the background: whoever waits for a message takes in those of others on the way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import torch.distributed as dist
from torch.futures import Future

from dmlf.errors import ConfigError, DeadlineExceeded, PeerLost, SchemaMismatch
from dmlf.protocol import Message, Phase, Tag, validate
from dmlf.torch.backend.wire import Vector, Wire
from dmlf.torch.backend.work import Tensors
from dmlf.transport import Transport

_SLICE_S = 5e-3
"""How long one thread waits on the links before another one may send or receive."""
_MAX_TAG = 2**32 - 1


class Mailbox:
    """One rank's sends and receives, over links that nobody else uses.

    timeout_s: how long a receive waits. Calls may come from any thread.
    """

    def __init__(self, links: Transport, rank: int, world_size: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.rank = rank
        self._links = links
        self._peers = [peer for peer in range(world_size) if peer != rank]
        self._sent = dict.fromkeys(self._peers, 0)
        self._received = dict.fromkeys(self._peers, 0)
        self._sending = threading.Lock()
        self._receiving = threading.Lock()  # guards all that follows
        self._posted: deque[Receive] = deque()
        self._kept: deque[tuple[int, int, Vector]] = deque()  # (source, tag, data)

    def send(self, wire: Wire, dst: int, tag: int) -> None:
        """Hand `wire` over for `dst`; it may be changed as soon as this returns."""
        self._check(dst, tag)
        with self._sending:
            place = Tag(0, self._sent[dst], tag, Phase.POINT_TO_POINT, 0, self.rank)
            self._links.send(dst, Message(place, wire.flat))
            self._sent[dst] += 1

    def receive(self, wire: Wire, src: int | None, tag: int, tensors: Tensors) -> Receive:
        """Ask for the next message from `src` (None: from anybody) with this tag, into `wire`."""
        self._check(src, tag)
        receive = Receive(self, wire, src, tag, tensors)
        with self._receiving:
            for index, (source, its_tag, data) in enumerate(self._kept):
                if receive.matches(source, its_tag):
                    del self._kept[index]
                    receive.take(source, data)
                    break
            else:
                self._posted.append(receive)
        return receive

    def progress(self, receive: Receive, timeout_s: float) -> None:
        """Take in what comes until `receive` is over. Raises DeadlineExceeded, PeerLost."""
        deadline = time.monotonic() + timeout_s
        sources = self._peers if receive.src is None else [receive.src]
        while not receive.is_over():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0.0:
                self._forget(receive)
                raise DeadlineExceeded(self.rank, sources[0], timeout_s)
            self._look(receive, sources, min(_SLICE_S, remaining_s) / len(sources))

    def poll(self, receive: Receive) -> None:
        """Take in what is there already."""
        self._look(receive, self._peers if receive.src is None else [receive.src], 0.0)

    def close(self) -> None:
        """Deliver what was sent, and free the links."""
        self._links.close()

    def abandon(self) -> None:
        """Free the links at once."""
        self._links.abandon()

    def _look(self, receive: Receive, sources: Sequence[int], timeout_s: float) -> None:
        losses = []
        for src in sources:
            with self._receiving:
                if receive.is_over():
                    return
                try:
                    message = self._links.recv(src, timeout_s)
                except DeadlineExceeded:
                    continue
                except PeerLost as error:  # another may still send what is waited for
                    losses.append(error)
                    continue
                self._deliver(src, message)
        if losses and len(losses) == len(sources):
            raise losses[0]

    def _deliver(self, src: int, message: Message) -> None:
        user_tag = message.tag.bucket
        number = self._received[src]
        expected = Tag(0, number, user_tag, Phase.POINT_TO_POINT, 0, src)
        validate(self.rank, expected, message.tag)
        self._received[src] = number + 1
        for index, receive in enumerate(self._posted):
            if receive.matches(src, user_tag):
                del self._posted[index]
                receive.take(src, message.payload)
                return
        self._kept.append((src, user_tag, np.array(message.payload)))

    def _forget(self, receive: Receive) -> None:
        with self._receiving:
            if receive in self._posted:
                self._posted.remove(receive)

    def _check(self, peer: int | None, tag: int) -> None:
        if peer is not None and peer not in self._sent:
            raise ConfigError("rank", peer, f"another rank of the group than {self.rank}")
        if not 0 <= tag <= _MAX_TAG:
            raise ConfigError("tag", tag, f"0 to {_MAX_TAG}")


class Receive(dist.Work):
    """A receive that was asked for."""

    def __init__(
        self, mailbox: Mailbox, wire: Wire, src: int | None, tag: int, tensors: Tensors
    ) -> None:
        super().__init__()
        self.src = src
        self._mailbox = mailbox
        self._wire = wire
        self._tag = tag
        self._tensors = tensors
        self._source: int | None = None
        self._error: SchemaMismatch | None = None

    def matches(self, source: int, tag: int) -> bool:
        """Whether this is what was asked for."""
        return self.src in (None, source) and self._tag == tag

    def is_over(self) -> bool:
        """Whether the message was taken."""
        return self._source is not None

    def take(self, source: int, data: Vector) -> None:
        """Put the message where it belongs, or keep why it does not fit."""
        flat = self._wire.flat
        if (data.dtype, data.size) == (flat.dtype, flat.size):
            self._wire.take(data)
        else:
            received = f"{data.dtype}[{data.size}] from rank {source}"
            me = self._mailbox.rank
            self._error = SchemaMismatch(me, f"{flat.dtype}[{flat.size}]", received, "recv")
        self._source = source

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return when the message is there.

        Raises SchemaMismatch for one of another dtype or size, DeadlineExceeded, PeerLost.
        """
        if self._source is None:
            given_s = 0.0 if timeout is None else timeout.total_seconds()
            self._mailbox.progress(self, given_s if given_s > 0.0 else self._mailbox.timeout_s)
        if self._error is not None:
            raise self._error
        return True

    def is_completed(self) -> bool:
        """Whether the message is there; takes in what has come."""
        if self._source is None:
            self._mailbox.poll(self)
        return self._source is not None

    def is_success(self) -> bool:
        """Whether the message is there, and fits."""
        return self._source is not None and self._error is None

    def exception(self) -> SchemaMismatch | None:
        """Why the message does not fit."""
        return self._error

    def _source_rank(self) -> int:
        """Where the message came from."""
        assert self._source is not None
        return self._source

    def result(self) -> Tensors:
        """The tensors that hold the message."""
        self.wait()
        return self._tensors

    def get_future(self) -> Future[Tensors]:
        """A future that holds `result`; waits for it, as nothing runs in the background."""
        future: Future[Tensors] = Future()
        future.set_result(self.result())
        return future
