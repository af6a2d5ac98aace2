"""The standard output of ranks: many processes, one stream, whole lines."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
from collections.abc import Iterator


class LineWriter(io.RawIOBase):
    """Writes to a descriptor that other ranks write to as well, never less than a line at a time.

    What `flush` finds without an end of line is written as it is. A line of any length stays
    whole: the ranks take turns, by a lock on the file behind the descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()

    def write(self, data: object) -> int:
        """Take all of `data`."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        self._pending += view
        self._emit(self._pending.rfind(b"\n") + 1)
        return view.nbytes

    def flush(self) -> None:
        """Write what is left."""
        self._emit(len(self._pending))

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return os.isatty(self._descriptor)

    def _emit(self, num_bytes: int) -> None:
        if not num_bytes:
            return
        data = bytes(self._pending[:num_bytes])
        del self._pending[:num_bytes]
        with _turn(self._descriptor):
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]


@contextlib.contextmanager
def _turn(descriptor: int) -> Iterator[None]:
    """Hold the lock of the file behind `descriptor`; where it has none, the line may be torn."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


def write_whole_lines() -> None:
    """Let this process's standard output come out line by line."""
    old = sys.stdout
    try:
        descriptor = old.fileno()
    except (AttributeError, OSError):  # somebody has replaced it, and knows why
        return
    old.flush()
    sys.stdout = io.TextIOWrapper(
        LineWriter(descriptor),
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=True,
    )
