"""Messages of any length between a coordinator and its workers, read as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dmlf import strict_json
from dmlf.errors import FrameError, PeerLost, TransportError
from dmlf.transport.tcp import Channel

ANSWER_S = 10.0
"""How long the other end has to take a message."""
_PART_CHARACTERS = 1 << 18  # the largest object of a channel is 1 MiB
_AT_ONCE = 64
"""How many parts of messages `take` reads: who says ever more must not keep others from a word."""


class Wire:
    """One end. name: how the other one is called in errors.

    lost: nothing more can be said, and there is nothing to wait for; `take` raises why.
    more: `take` has left something unread, and there is nothing to wait for.
    """

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._name = name
        self._parts: list[str] = []
        self.lost = False
        self.more = False

    def fileno(self) -> int:
        """Readable when `take` has something to read."""
        return self._channel.fileno()

    @property
    def name(self) -> str:
        """How the other end is called."""
        return self._name

    @property
    def peer(self) -> str:
        """Its address."""
        return self._channel.peer

    def send(self, kind: str, **values: Any) -> None:
        """Send a message. Raises TransportError."""
        text = json.dumps({"kind": kind, **values}, allow_nan=False)
        for start in range(0, len(text), _PART_CHARACTERS):
            part = text[start : start + _PART_CHARACTERS]
            last = start + _PART_CHARACTERS >= len(text)
            with self._naming_it():
                self._channel.send({"text": part, "last": last}, ANSWER_S)

    def tell(self, kind: str, **values: Any) -> None:
        """Send a message if the other end is there; `take` says that it is not."""
        try:
            self.send(kind, **values)
        except TransportError:
            self.lost = True

    def take(self) -> list[dict[str, Any]]:
        """The messages that are here in full, and no more than _AT_ONCE of them.

        Raises TransportError when there can be no more.
        """
        messages: list[dict[str, Any]] = []
        self.more = False
        for _ in range(_AT_ONCE):
            try:
                with self._naming_it():
                    part = self._channel.take()
            except TransportError:
                self.lost = True
                if messages:
                    return messages  # and the same error next time
                raise
            if part is None:
                return messages
            try:
                self._parts.append(part["text"])
                if part["last"]:
                    messages.append(_message("".join(self._parts)))
                    self._parts.clear()
            except (KeyError, TypeError, ValueError) as error:
                raise FrameError(self._name, "message", str(part)[:40], f"{error}") from None
        self.more = True
        return messages

    @contextmanager
    def _naming_it(self) -> Iterator[None]:
        """Say who is lost, and not only at which address."""
        try:
            yield
        except PeerLost as error:
            raise PeerLost(f"{self._name} at {error.peer}", error.detail) from None

    def close(self) -> None:
        """Hang up; what was sent is still delivered if all that came has been read."""
        self._channel.close()


def _message(text: str) -> dict[str, Any]:
    message = strict_json.parse(text.encode())
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise ValueError("an object with a kind")
    return message
