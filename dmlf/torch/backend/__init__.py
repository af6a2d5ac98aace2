"""The backend `dmlf` of torch.distributed: unmodified DDP over dmlf's transports.

`import dmlf.torch` registers it; then `init_process_group("dmlf")` and all that builds on it work.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

from dmlf.torch.backend.process_group import NAME, DmlfProcessGroup


def register_backend() -> None:
    """Make `dmlf` known to torch.distributed, for CPU tensors; a second call does nothing."""
    if NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _create, devices=["cpu"])


def _create(store: Any, rank: int, world_size: int, timeout: timedelta) -> DmlfProcessGroup:
    return DmlfProcessGroup(store, rank, world_size, timeout)


__all__ = ["DmlfProcessGroup", "register_backend"]
