"""One measured run at a time on this host, whatever workflow started it."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_path() -> Path:
    """The file that all dmlf processes of this user on this host lock."""
    return Path(tempfile.gettempdir()) / f"dmlf-measuring-{os.getuid()}.lock"


@contextmanager
def measuring_lock() -> Iterator[float]:
    """Hold the lock; yields the seconds waited for it. The kernel frees it if we are killed."""
    start = time.monotonic()
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(lock_path(), flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield time.monotonic() - start
    finally:
        os.close(descriptor)
