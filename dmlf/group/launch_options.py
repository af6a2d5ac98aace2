"""How ranks are to be started, as `dmlf.launch` and `dmlf run` are told."""

from __future__ import annotations

from dataclasses import dataclass

from dmlf.config import MAX_SERVERS, MAX_THREADS, MAX_WORLD_SIZE
from dmlf.errors import ConfigError
from dmlf.group.group import all_reduce_named, check_timeout
from dmlf.runtime.supervisor import RestartPolicy
from dmlf.transport import TRANSPORTS

ELASTIC_RESTARTS = 3
"""How many failures are mended where the world size may change, unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """What `dmlf.launch` describes, under the same names. Raises ConfigError when made."""

    world_size: int
    transport: str
    algorithm: str
    timeout_s: float
    threads_per_rank: int
    num_servers: int
    max_restarts: int | None
    min_workers: int | None
    max_workers: int | None

    def __post_init__(self) -> None:
        for key, number in (("min_workers", self.min_workers), ("max_workers", self.max_workers)):
            if number is not None and not _is_whole(number):
                raise ConfigError(key, number, "a whole number, or None")
        if self.max_restarts is not None and not _is_whole(self.max_restarts):
            raise ConfigError("max_restarts", self.max_restarts, "a whole number, at least 0")
        for key, number, least, most in (
            ("world_size", self.world_size, 1, MAX_WORLD_SIZE),
            ("threads_per_rank", self.threads_per_rank, 1, MAX_THREADS),
            ("num_servers", self.num_servers, 0, MAX_SERVERS),
        ):
            if not _is_whole(number) or not least <= number <= most:
                raise ConfigError(key, number, f"a whole number from {least} to {most}")
        if self.transport not in TRANSPORTS:
            raise ConfigError("transport", self.transport, ", ".join(TRANSPORTS))
        check_timeout(self.timeout_s)
        all_reduce_named(self.algorithm)
        if self.restarts is None:
            return
        if self.num_servers:
            allowed = "0 where ranks are replaced: servers hold state that would be lost"
            raise ConfigError("num_servers", self.num_servers, allowed)
        if self.transport == "process_group":
            allowed = "queue, shm or tcp where ranks are replaced"
            raise ConfigError("transport", self.transport, allowed)

    @property
    def restarts(self) -> RestartPolicy | None:
        """How ranks are replaced; None where the first failure ends them all."""
        changes = self.min_workers is not None or self.max_workers is not None
        times = ELASTIC_RESTARTS if changes else 0
        if self.max_restarts is not None:
            times = self.max_restarts
        if not (times or changes):
            return None
        return RestartPolicy(times, min_workers=self.min_workers, max_workers=self.max_workers)


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
