"""A worker of a run that another host coordinates: it runs one rank, and speaks for it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from dmlf.errors import ConfigError, DmlfError, NoAnswer, PeerLost
from dmlf.runtime import member as words
from dmlf.runtime.coordinator import PURPOSE, SILENCE_S, Secret
from dmlf.runtime.events import Admit
from dmlf.runtime.local import LocalMembers
from dmlf.runtime.member import StartOrder
from dmlf.runtime.supervisor import BEAT, GONE, LOOK_S, NOTED, Said
from dmlf.runtime.wire import Wire
from dmlf.runtime.wire_errors import error_from_plain, error_to_plain
from dmlf.transport.tcp import Address, Listener, TcpEndpoint, dial, listen

Prepare = Callable[[Any, bool], LocalMembers]
"""(job, leaves) -> the members of this host, none of them started. Raises DmlfError."""

_STOPPED = (words.JOINED, words.ACKNOWLEDGED, words.FAILED, words.DONE)
"""Words after which a rank may be started again, and needs another address to listen on."""
_MEMBER = 0


class Agent:
    """One worker.

    address: the coordinator's. host: where other ranks reach this host; None: the address from
    which the coordinator is reached. Raises NoAnswer, AuthenticationError.
    """

    def __init__(
        self,
        address: Address,
        secret: Secret,
        host: str | None,
        prepare: Prepare,
        timeout_s: float,
    ) -> None:
        channel = dial(address, secret.key, PURPOSE, secret.tls, timeout_s)
        self._wire = Wire(channel, "the coordinator")
        self._secret = secret
        self._host = host or channel.own_host
        self._prepare = prepare
        self._members: LocalMembers | None = None
        self._listener: Listener | None = None  # for the rank's next generation
        self._rank = 0
        self._leaves = False  # whether SIGTERM asks to be let go
        self._wish = False  # whether it has
        self._ended: str | None = None
        self._beat_at = 0.0

    def run(self, sources: str) -> str:
        """Join, run the rank to its end, and return what became of it: `rank 3 done`.

        Raises ConfigError when refused, and what ended the run, here or elsewhere.
        """
        heard = time.monotonic()
        try:
            self._wire.send("join", sources=sources)
            with self._heeding_sigterm():
                while self._ended is None:
                    watched: list[Any] = [self._wire]
                    if self._members is not None:
                        watched += self._members.sources()
                    wait(watched, 0.0 if self._wire.more else LOOK_S)
                    messages = self._wire.take()
                    for message in messages:
                        self._obey(message)
                    if messages:  # which may have taken long: what came meanwhile is not yet read
                        heard = time.monotonic()
                    if self._wish:
                        self._wish = False
                        self._say(words.LEAVING, 0, None)
                    if time.monotonic() - heard > SILENCE_S:
                        raise NoAnswer("the coordinator", SILENCE_S)
                    if self._members is not None and self._ended is None:
                        for said in self._members.heard():
                            self._relay(said)
            if self._members is not None:
                self._members.finish()
            return self._ended
        finally:
            if self._members is not None:
                self._members.close(None)
            self._wire.close()

    @contextmanager
    def _heeding_sigterm(self) -> Iterator[None]:
        """Let SIGTERM ask to leave, where workers may; a second one, or any other, ends this."""

        def heed(number: int, _frame: FrameType | None) -> None:
            if not self._leaves:
                raise SystemExit(128 + number)
            self._leaves, self._wish = False, True

        if threading.current_thread() is not threading.main_thread():
            yield  # its owner decides about signals
            return
        previous = signal.signal(signal.SIGTERM, heed)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _obey(self, message: Mapping[str, Any]) -> None:
        match message["kind"]:
            case "prepare":
                self._take_place(message)
            case "start":
                self._start(message)
            case "abort" if self._members is not None:
                self._members.abort(_MEMBER, int(message["generation"]))
            case "dismissed":
                if message["refused"] is not None:
                    reason = f"one that the coordinator admits ({message['refused']})"
                    raise ConfigError("worker", self._host, reason)
                self._ended = f"rank {self._rank} left"
            case "end":
                self._ended = f"rank {self._rank} done"
            case "failed":
                raise error_from_plain(message["error"])

    def _take_place(self, message: Mapping[str, Any]) -> None:
        """Start the rank's process, which gets ready meanwhile."""
        self._rank = int(message["rank"])
        try:
            self._members = self._prepare(message["job"], bool(message["leaves"]))
            self._members.spawn(Admit(_MEMBER, message["server"], self._rank))
        except DmlfError as error:
            self._say(words.FAILED, 0, error_to_plain(error))
        self._leaves = bool(message["leaves"])

    def _start(self, message: Mapping[str, Any]) -> None:
        assert self._members is not None
        assert self._listener is not None
        self._rank = int(message["rank"])
        addresses = [(str(host), int(port)) for host, port in message["addresses"]]
        generation = int(message["generation"])
        endpoint = TcpEndpoint(
            self._rank,
            self._listener,
            addresses,
            self._secret.key,
            self._secret.tls,
            generation,
        )
        order = StartOrder(
            generation,
            self._rank,
            int(message["world_size"]),
            endpoint,
            bool(message["trust_memory"]),
            {name: json.loads(text) for name, text in message["notes"].items()},
            frozenset(message["struck"]),
            message["saved"],
        )
        self._members.order(_MEMBER, order)
        self._listener = None  # it is the rank's now

    def _relay(self, said: Said) -> None:
        """Tell the coordinator what the rank says."""
        _, kind, generation, value = said
        if kind == GONE:
            self._say(GONE, 0, value)
            raise PeerLost(f"rank {self._rank}", value)
        if kind == BEAT:
            now = time.monotonic()
            if now < self._beat_at:
                return
            self._beat_at = now + LOOK_S
        elif kind == words.FAILED:
            value = error_to_plain(value)
        elif kind == NOTED:
            # A loss may be infinite, which the wire does not carry.
            value = {name: json.dumps(note) for name, note in value.items()}
        self._say(kind, generation, value)

    def _say(self, kind: str, generation: int, value: Any) -> None:
        extra: dict[str, Any] = {}
        if kind in _STOPPED:
            # One that was told of and not used is kept: it may be used before this is heard.
            if self._listener is None:
                self._listener = listen(self._host, 0, self._secret.key)
            extra["address"] = list(self._listener.address)
        self._wire.send(kind, generation=generation, value=value, **extra)
