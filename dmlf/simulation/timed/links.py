"""The link model: what a message, an addition and a step's computation cost in virtual time.

A message of n bytes costs its sender `overhead_s` of CPU time, then n / bandwidth of the sending
side of its host's port, arrives `latency_s` after it began to leave, and costs n / bandwidth of
the receiving side of the other host's port, which may take it while it still arrives
(cut-through); then `overhead_s` of its receiver's CPU time. Both sides of a port serve one message
at a time, in order of arrival. Ranks of one host share its port, and reach each other by links of
their own, which share nothing. Without contention that is Hockney's alpha + n / beta with LogP's
overhead at both ends.

Sources: Hockney, "The communication challenge for MPP", Parallel Computing 20(3), 1994 (alpha,
beta); Culler et al., "LogP: towards a realistic model of parallel computation", PPoPP 1993
(overhead); Alexandrov et al., "LogGP", SPAA 1995 (a port that long messages occupy); Thakur,
Rabenseifner & Gropp, IJHPCA 19(1), 2005 (gamma).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dmlf.errors import ConfigError

MAX_RANKS_PER_HOST = 1024
MAX_SECONDS = 1e6
"""Of one computation, message or addition; sums over ranks and steps then stay exact enough."""


@dataclass(frozen=True, slots=True)
class Link:
    """Alpha and beta: seconds before the first byte arrives, and bytes per second after it."""

    latency_s: float
    bandwidth_bytes_per_s: float

    def __post_init__(self) -> None:
        _check("latency_s", self.latency_s, positive=False)
        _check("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, positive=True)

    @property
    def s_per_byte(self) -> float:
        """Seconds that one byte occupies the link."""
        return 1.0 / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Hosts of `ranks_per_host` workers each, in order of rank; every server has its own host.

    port: between hosts. local: between two ranks of a host. overhead_s: CPU time of one message
    at each end. reduction_s_per_byte: gamma, of a partial sum that is added. server_bandwidth:
    bytes per second of the servers' ports (None: as all others).
    """

    port: Link
    local: Link
    overhead_s: float = 0.0
    reduction_s_per_byte: float = 0.0
    ranks_per_host: int = 1
    server_bandwidth: float | None = None

    def __post_init__(self) -> None:
        _check("overhead_s", self.overhead_s, positive=False)
        _check("reduction_s_per_byte", self.reduction_s_per_byte, positive=False)
        if self.server_bandwidth is not None:
            _check("server_bandwidth", self.server_bandwidth, positive=True)
        if not 1 <= self.ranks_per_host <= MAX_RANKS_PER_HOST:
            allowed = f"an integer from 1 to {MAX_RANKS_PER_HOST}"
            raise ConfigError("ranks_per_host", self.ranks_per_host, allowed)

    @property
    def server_s_per_byte(self) -> float:
        """Seconds that one byte occupies a server's port."""
        return 1.0 / (self.server_bandwidth or self.port.bandwidth_bytes_per_s)

    def num_hosts(self, world_size: int) -> int:
        """Hosts of the workers; servers come on top."""
        return -(-world_size // self.ranks_per_host)

    def host(self, rank: int, world_size: int) -> int:
        """The host of a rank: workers fill hosts one by one, servers have one each."""
        if rank < world_size:
            return rank // self.ranks_per_host
        return self.num_hosts(world_size) + rank - world_size


def _check(key: str, value: float, positive: bool) -> None:
    """Refuse what is no time from zero, or, if `positive`, no rate above it. Raises ConfigError."""
    if positive and not 0 < value < math.inf:
        raise ConfigError(key, value, "a finite number above 0")
    if not positive and not 0 <= value <= MAX_SECONDS:
        raise ConfigError(key, value, f"a number from 0 to {MAX_SECONDS:g}")
