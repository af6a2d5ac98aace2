"""The backend `dmlf` of torch.distributed: unmodified DDP over dmlf's transports.

`import dmlf.torch` registers it; then `init_process_group("dmlf")` and all that builds on it work.

One call's way: `process_group.py` (what torch asks for), `work.py` (when it runs, and its handle),
`collectives.py` (what the ranks do), `folds.py` (the arithmetic), `wire.py` (tensors as vectors);
`point_to_point.py` beside them. The links are those of any `dmlf.group.Group`.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from dmlf.errors import ConfigError
from dmlf.torch.backend.process_group import NAME, BackendOptions, DmlfProcessGroup


def register_backend() -> None:
    """Make `dmlf` known to torch.distributed, for CPU tensors; a second call does nothing."""
    if NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu"])


def _create(place: Any, options: object) -> DmlfProcessGroup:
    if options is None:
        options = BackendOptions()
    if not isinstance(options, BackendOptions):
        raise ConfigError("pg_options", options, "dmlf.torch.BackendOptions(...), or None")
    return DmlfProcessGroup(place.store, place.group_rank, place.group_size, place.timeout, options)


__all__ = ["BackendOptions", "DmlfProcessGroup", "register_backend"]
