"""Messages of a process that may stop in the middle of one, put together from what has come.

The framing is that of `multiprocessing.connection.Connection`, whose own `recv` blocks until a
message that has begun is whole. No I/O.
"""

from __future__ import annotations

import struct

# A length, or -1 and a longer length.
_SHORT, _LONG = struct.Struct("!i"), struct.Struct("!Q")


class Pieces:
    """What has come of one connection's next message. Read into `place`, then `advance`."""

    def __init__(self) -> None:
        self._expect(_SHORT.size, _SHORT)

    @property
    def place(self) -> memoryview:
        """Where the next bytes belong: as many as may be read, at least one."""
        return memoryview(self._part)[self._num_came :]

    def advance(self, num_bytes: int) -> bytearray | None:
        """Count bytes that were read into `place`; the message that they complete, if any."""
        self._num_came += num_bytes
        if self._num_came < len(self._part):
            return None
        part, header = self._part, self._header
        if header is not None:
            (length,) = header.unpack(part)
            if length == -1:
                self._expect(_LONG.size, _LONG)
            else:
                self._expect(length, None)
            if len(self._part):
                return None
            part = self._part
        self._expect(_SHORT.size, _SHORT)
        return part

    def _expect(self, num_bytes: int, header: struct.Struct | None) -> None:
        self._part = bytearray(num_bytes)
        self._header = header
        self._num_came = 0
