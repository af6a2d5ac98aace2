"""The configuration of one run of the collective benchmark: frozen, validated once, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from dmlf.config import canonical_json, split_strategy
from dmlf.errors import ConfigError
from dmlf.protocol import registry
from dmlf.transport import TRANSPORTS

GLOO, OPENMPI, LIMIT = "gloo", "openmpi", "limit"
PEERS = (GLOO, OPENMPI)
DEFAULT_SIZES = tuple(1024 * 4**power for power in range(9))
"""1 KiB to 64 MiB."""
DEFAULT_BUCKET_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Strategy:
    """What a contestant's name says: `ring-shm`, or `parameter_server:2-shm` with two servers."""

    algorithm: str
    num_servers: int
    transport: str


def parse_strategy(name: str) -> Strategy:
    """Take a name apart; any transport will do. Raises ConfigError."""
    left, transport = split_strategy(name)
    algorithm, colon, servers = left.partition(":")
    known = registry().get(algorithm)
    counts = not colon or (servers.isdecimal() and 2 <= int(servers) <= 64)
    if known is None or not counts:
        raise _wrong_strategy(name)
    if colon and not known.has_servers:
        raise ConfigError("strategies", name, f"{algorithm}-{transport}, as it has no servers")
    return Strategy(algorithm, known.server_count(int(servers or 1)), transport)


def _wrong_strategy(name: str) -> ConfigError:
    allowed = f"{'|'.join(registry())} and {'|'.join(TRANSPORTS)}, joined by '-'"
    return ConfigError("strategies", name, f"{allowed}; NAME:2 for 2 servers, up to 64")


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveConfig:
    """What is measured: every strategy and peer at every world size and size.

    sizes: bytes of the float32 vector that every rank holds. round_s: how long a contestant's
    turn is meant to last; a call that takes longer is made once a turn. bucket_bytes: the vector
    is summed in buckets of so many bytes, as gradients are in training. Raises ConfigError.
    """

    strategies: tuple[str, ...]
    peers: tuple[str, ...] = PEERS
    world_sizes: tuple[int, ...] = (2, 4)
    sizes: tuple[int, ...] = DEFAULT_SIZES
    rounds: int = 7
    round_s: float = 0.05
    bucket_bytes: int = DEFAULT_BUCKET_BYTES
    seed: int = 0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for key in ("strategies", "peers", "world_sizes", "sizes"):
            values = tuple(getattr(self, key))
            object.__setattr__(self, key, values)
            if len(set(values)) != len(values):
                raise ConfigError(key, list(values), "each item once")
        if not self.strategies and not self.peers:
            raise ConfigError("strategies", [], "at least one strategy or peer")
        for strategy in self.strategies:
            if parse_strategy(strategy).transport not in TRANSPORTS:
                raise _wrong_strategy(strategy)
        for peer in self.peers:
            if peer not in PEERS:
                raise ConfigError("peers", peer, f"one of {', '.join(PEERS)}")
        for key, values in (("world_sizes", self.world_sizes), ("sizes", self.sizes)):
            if not values:
                raise ConfigError(key, [], "at least one number")
        for world_size in self.world_sizes:
            _integer("world_sizes", world_size, 2, 64)
        for size in self.sizes:
            _integer("sizes", size, 4, 1 << 31)
            if size % 4:
                raise ConfigError("sizes", size, "a multiple of 4 bytes (float32)")
        _integer("bucket_bytes", self.bucket_bytes, 4, 1 << 40)
        _integer("rounds", self.rounds, 1, 10_000)
        _integer("seed", self.seed, 0, (1 << 63) - 1)
        _seconds("round_s", self.round_s, 1e-4, 60.0)
        _seconds("timeout_s", self.timeout_s, 1.0, 86_400.0)

    def as_mapping(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> CollectiveConfig:
        """Build from plain values with every key. Raises ConfigError."""
        known = [item.name for item in fields(cls)]
        for key in [*values, *known]:
            if key not in known or key not in values:
                raise ConfigError(key, values.get(key), f"the keys {', '.join(known)}")
        return cls(**values)

    def sha256(self) -> str:
        """Hash of everything that decides what is measured (not `timeout_s`)."""
        decisive = {k: v for k, v in self.as_mapping().items() if k != "timeout_s"}
        return hashlib.sha256(canonical_json(decisive)).hexdigest()


def every_strategy(
    algorithms: Sequence[str] | None, transports: Sequence[str] | None
) -> tuple[str, ...]:
    """All combinations of some algorithms and transports (None: all that are registered).

    Raises ConfigError for a name that is not registered.
    """
    for key, chosen, known in (
        ("algorithms", algorithms, registry()),
        ("transports", transports, TRANSPORTS),
    ):
        for name in chosen or ():
            if name not in known:
                raise ConfigError(key, name, f"one of {', '.join(known)}")
    return tuple(
        f"{algorithm}-{transport}"
        for algorithm in (registry().usable() if algorithms is None else algorithms)
        for transport in (TRANSPORTS.usable() if transports is None else transports)
    )


def _integer(key: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(key, value, f"an integer from {low} to {high}")


def _seconds(key: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # type: ignore[operator]
        raise ConfigError(key, value, f"seconds from {low:g} to {high:g}")
