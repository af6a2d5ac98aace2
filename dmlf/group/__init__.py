"""Groups of ranks that users drive themselves: from their own functions and scripts."""

from dmlf.group.default import (
    all_gather,
    all_reduce,
    barrier,
    broadcast,
    default_group,
    init,
    is_initialized,
    rank,
    shutdown,
    world_size,
)
from dmlf.group.group import Group
from dmlf.group.launching import launch

__all__ = [
    "Group",
    "all_gather",
    "all_reduce",
    "barrier",
    "broadcast",
    "default_group",
    "init",
    "is_initialized",
    "launch",
    "rank",
    "shutdown",
    "world_size",
]
