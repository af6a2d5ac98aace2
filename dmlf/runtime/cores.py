"""On how many cores a parameter server adds: while it does, its workers wait and use none."""

from __future__ import annotations

import os

from dmlf.numerics.blocks import MAX_THREADS


def server_threads(num_servers: int) -> int:
    """Threads that each of `num_servers` servers adds with: its share of this host's cores."""
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)) // num_servers))
