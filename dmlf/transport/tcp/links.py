"""One rank's end of the connection with one peer: what waits to be sent, what has come in part."""

from __future__ import annotations

import fcntl
import socket
import ssl
import sys
import termios
from collections import deque
from contextlib import suppress

from dmlf.errors import ChecksumMismatch, FrameError, PeerLost, SourceMismatch
from dmlf.transport.tcp.frames import PIECE_BYTES, Frame, FrameParser, Rules
from dmlf.transport.tcp.sockets import WOULD_BLOCK


class Link:
    """Never blocks: what the kernel does not take waits in `outgoing`.

    An error ends the link: the socket is closed, and the same error is raised ever after.
    """

    def __init__(self, connection: socket.socket, incoming: Rules, outgoing: Rules) -> None:
        self.connection = connection
        self.peer = incoming.peer
        self.outgoing_rules = outgoing
        self.parser = FrameParser(incoming)
        self.outgoing: deque[memoryview] = deque()
        self.descriptor = connection.fileno()
        self._gathers = not isinstance(connection, ssl.SSLSocket)
        self._failure: Exception | None = None
        self._refused: OSError | None = None  # why the peer takes no more, where it may have sent

    def send(self, header: bytes, content: memoryview, stable: bool) -> None:
        """Send a frame, or as much as the kernel takes; the rest is queued.

        stable: `content` keeps its value until it is sent, so need not be copied. Raises PeerLost.
        """
        sent = 0
        if not self.outgoing and self._gathers:
            try:
                sent = self.connection.sendmsg((header, content))
            except WOULD_BLOCK:
                pass
            except OSError as error:
                raise self._lost(error) from None
        if sent == len(header) + len(content):
            return
        if sent < len(header):
            self.outgoing.append(memoryview(header)[sent:])
            sent = len(header)
        rest = content[sent - len(header) :]
        self.outgoing.append(rest)
        self.flush()
        if not stable and self.outgoing and rest:
            left = self.outgoing.pop()
            self.outgoing.append(memoryview(bytes(left)))

    def cut(self, header: bytes, content: memoryview) -> None:
        """Send a frame up to the middle of its payload, or of its header, and end the connection.

        A fault that is injected: from here on the peer is lost to both ends.
        """
        whole = header[: len(header) // 2] if not content.nbytes else header
        with suppress(OSError):  # full, or gone already: it ends all the same
            self.connection.send(whole + bytes(content[: content.nbytes // 2]))
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def flush(self, receiving: bool = False) -> bool:
        """Send what waits until the kernel takes no more; whether it took any. Raises PeerLost.

        receiving: a peer that takes no more may have sent before it hung up, which is read first;
        the next `send` or `flush` without `receiving` raises.
        """
        if self._failure is not None:
            raise self._failure
        if self._refused is not None:
            if receiving:
                return False
            raise self._lost(self._refused)
        outgoing, moved = self.outgoing, False
        try:
            while outgoing:
                first = outgoing[0]
                if first:
                    sent = self.connection.send(first[:PIECE_BYTES])
                    moved = True
                    if sent < len(first):
                        outgoing[0] = first[sent:]
                        continue
                outgoing.popleft()
        except WOULD_BLOCK:
            pass
        except OSError as error:
            if not receiving:
                raise self._lost(error) from None
            self._refused = error
            outgoing.clear()
        return moved

    def receive(self) -> tuple[Frame | None, bool]:
        """Read one piece at most: a frame if it completes one, and whether there was any.

        Raises PeerLost, FrameError, ChecksumMismatch, SourceMismatch.
        """
        if self._failure is not None:
            raise self._failure
        place = self.parser.wants()
        try:
            num_bytes = self.connection.recv_into(place[:PIECE_BYTES])
        except WOULD_BLOCK:
            return None, False
        except OSError as error:
            raise self._lost(error) from None
        if not num_bytes:
            raise self._lost(None)
        try:
            return self.parser.advance(num_bytes), True
        except (FrameError, ChecksumMismatch, SourceMismatch) as error:
            raise self._end(error) from None

    def discard_incoming(self) -> bool:
        """Read what has come, and forget it; False if the peer has hung up."""
        if self._failure is not None:
            return False
        try:
            while self.connection.recv(PIECE_BYTES):
                pass
        except WOULD_BLOCK:
            return True
        except OSError:
            pass
        return False

    def unacknowledged(self) -> int:
        """How many bytes the kernel has taken that have not arrived."""
        if self._failure is not None:
            return 0
        return int.from_bytes(
            fcntl.ioctl(self.descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder
        )

    def close(self) -> None:
        """Hang up; what the kernel has taken is still delivered."""
        self._end(PeerLost(self.peer, "this end of the connection was closed"))

    def _lost(self, error: OSError | None) -> Exception:
        detail = "it closed the connection" if error is None else error.strerror or str(error)
        if not self.parser.between_frames:
            detail += " in the middle of a frame"
        return self._end(PeerLost(self.peer, detail))

    def _end(self, failure: Exception) -> Exception:
        if self._failure is None:
            self._failure = failure
            self.outgoing.clear()
            self.connection.close()
        return self._failure
