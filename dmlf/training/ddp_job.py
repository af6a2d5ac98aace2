"""What a rank of a stock DDP run is told; apart from `ddp`, which needs torch."""

from __future__ import annotations

from dataclasses import dataclass

from dmlf.config import RunConfig


@dataclass(frozen=True, slots=True)
class DdpJob:
    """The run, and the file through which torch's ranks find each other."""

    config: RunConfig
    rendezvous_path: str
