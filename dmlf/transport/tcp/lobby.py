"""Where connections wait until they are authenticated; a crowd cannot keep others out.

At most MAX_WAITING accepted connections wait at a time, each for AUTHENTICATION_S at most. When
there is no room, the one that has waited longest goes, of those that have not said who they are
if there are any: a rank needs milliseconds, so an idle crowd leaves before it does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from selectors import EVENT_READ, DefaultSelector

from dmlf.errors import AuthenticationError, DmlfError
from dmlf.transport.tcp.auth import HELLO_BYTES
from dmlf.transport.tcp.greeting import Greeting
from dmlf.transport.tcp.sockets import Address, stop_listening

MAX_WAITING = 64
_ACCEPTED_AT_ONCE = 16
Welcome = Callable[[socket.socket, Address], Greeting]
Outcome = tuple[Greeting, DmlfError | OSError | None]


class Lobby:
    """Serves a listening socket, and greetings of this end's own."""

    def __init__(self, listening: socket.socket, welcome: Welcome) -> None:
        self._listening = listening
        self._welcome = welcome
        self._waiting: dict[Greeting, int] = {}  # in order of arrival, with the events watched
        self._selector = DefaultSelector()
        self._selector.register(listening, EVENT_READ)

    @property
    def num_waiting(self) -> int:
        """Connections that wait, of both kinds."""
        return len(self._waiting)

    def add(self, greeting: Greeting) -> Outcome | None:
        """Serve `greeting` too; its outcome if that is known at once."""
        self._waiting[greeting] = 0
        return self._advance(greeting)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Wait for something to happen; the greetings that ended, in success (None) or error.

        A greeting with an error is closed. One without is the caller's from now on.
        """
        now = time.monotonic()
        first = min((greeting.deadline for greeting in self._waiting), default=now + timeout_s)
        ready = self._selector.select(max(0.0, min(timeout_s, first - now)))
        outcomes = []
        for key, _ in ready:
            if key.data in self._waiting:
                outcomes.append(self._advance(key.data))
            elif key.data is None:
                outcomes.extend(self._accept())
        now = time.monotonic()
        for greeting in [late for late in self._waiting if late.deadline <= now]:
            outcomes.append(self._end(greeting, self._too_slow(greeting)))
        return [outcome for outcome in outcomes if outcome is not None]

    def fileno(self) -> int:
        """A descriptor that is readable when `wait` has something to do (deadlines apart)."""
        return self._selector.fileno()

    def close(self) -> None:
        """Stop listening, and hang up on all that wait."""
        self._selector.close()
        stop_listening(self._listening)
        for greeting in self._waiting:
            greeting.close()
        self._waiting.clear()

    def _accept(self) -> list[Outcome | None]:
        outcomes: list[Outcome | None] = []
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except BlockingIOError:
                break
            except OSError:  # gone again, or no descriptor left: make room
                outcomes.append(self._make_room(0))
                break
            connection.setblocking(False)
            outcomes.append(self._make_room(MAX_WAITING - 1))
            outcomes.append(self.add(self._welcome(connection, address)))
        return outcomes

    def _make_room(self, room: int) -> Outcome | None:
        """Send one away if more than `room` wait."""
        accepted = [greeting for greeting in self._waiting if greeting.accepted]
        if len(accepted) <= room:
            return None
        silent = [greeting for greeting in accepted if greeting.handshake.wants == HELLO_BYTES]
        leaving = (silent or accepted)[0]
        error = AuthenticationError(leaving.handshake.peer, "it waited while others came")
        return self._end(leaving, error)

    def _advance(self, greeting: Greeting) -> Outcome | None:
        watched, before = self._waiting[greeting], greeting.connection
        try:
            done = greeting.advance()
        except (DmlfError, OSError) as error:
            return self._end(greeting, error)
        if done:
            self._forget(greeting)
            return greeting, None
        if not watched:
            self._selector.register(greeting.connection, greeting.events, greeting)
        elif watched != greeting.events or before is not greeting.connection:
            self._selector.modify(greeting.connection, greeting.events, greeting)
        self._waiting[greeting] = greeting.events
        return None

    def _end(self, greeting: Greeting, error: DmlfError | OSError) -> Outcome:
        self._forget(greeting)
        greeting.close()
        return greeting, error

    def _forget(self, greeting: Greeting) -> None:
        if self._waiting.pop(greeting):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(greeting.connection)

    def _too_slow(self, greeting: Greeting) -> DmlfError | OSError:
        if not greeting.connected:
            return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return AuthenticationError(greeting.handshake.peer, "it took too long")
