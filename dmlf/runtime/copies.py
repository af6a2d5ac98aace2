"""Has glibc write large copies past the cache, as it does by itself where it knows the cache.

A copy that its core's cache cannot hold is faster when it does not first read what it overwrites.
glibc does so from three quarters of a core's share of the last cache on; a virtual machine shows
that of its whole host, and no copy is ever large enough. Said to the fork server alone: the limit
is read when a program starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "GLIBC_TUNABLES"
STREAMED_BYTES = (2 << 20) - 256
"""From which size on: chunks of a bucket of 4 MiB between two ranks are copied so, smaller not."""


@contextmanager
def streamed_copies() -> Iterator[None]:
    """Programs that start inside stream large copies, unless glibc has been tuned already."""
    if VARIABLE in os.environ:
        yield
        return
    os.environ[VARIABLE] = f"glibc.cpu.x86_non_temporal_threshold={STREAMED_BYTES:#x}"
    try:
        yield
    finally:
        del os.environ[VARIABLE]
