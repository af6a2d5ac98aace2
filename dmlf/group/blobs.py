"""Bytes of any length, on all ranks."""

from __future__ import annotations

import numpy as np

from dmlf.group.group import Group


def broadcast_bytes(group: Group, data: bytes, root: int = 0) -> bytes:
    """The `data` of rank `root`, of any length, on all ranks."""
    length = np.array([len(data)], np.int64)
    group.broadcast(length, root)
    buffer = np.zeros(int(length[0]), np.uint8)
    if group.rank == root:
        buffer[:] = np.frombuffer(data, np.uint8)
    if buffer.size:
        group.broadcast(buffer, root)
    return buffer.tobytes()
