"""A disk that is full when it is told to be: for `--fault disk-full`."""

from __future__ import annotations

import errno
import os

from dmlf.checkpoint.files import DiskFiles


class FaultyDisk(DiskFiles):
    """The real file operations; writing fails while `full`."""

    full = False

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        """Write, or raise OSError."""
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(descriptor, content)
