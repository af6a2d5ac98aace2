"""What was measured of a collective, and the terms of its closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from dmlf.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CollectiveSample:
    """One point of the collective benchmark: the times of an algorithm's step, round by round.

    num_bytes: of the vector that is summed on every rank, in buckets of `bucket_bytes` (None: in
    one). seconds: of the slowest rank, a value per round. Raises ConfigError.
    """

    algorithm: str
    transport: str
    world_size: int
    num_bytes: int
    seconds: tuple[float, ...]
    bucket_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in _TERMS:
            raise ConfigError("algorithm", self.algorithm, f"one of {', '.join(_TERMS)}")
        if self.world_size < 1:
            raise ConfigError("world_size", self.world_size, "an integer of at least 1")
        if self.num_bytes < 0:
            raise ConfigError("num_bytes", self.num_bytes, "an integer of at least 0")
        if not self.seconds or not all(math.isfinite(s) and s > 0 for s in self.seconds):
            raise ConfigError("seconds", self.seconds, "finite numbers above 0, at least one")

    @property
    def num_buckets(self) -> int:
        """Buckets of the vector."""
        return 1 if self.bucket_bytes is None else max(1, -(-self.num_bytes // self.bucket_bytes))

    @property
    def median_s(self) -> float:
        """Median over runs."""
        return median(self.seconds)


class Coefficients(NamedTuple):
    """How often alpha, beta and gamma count on the longest path of a collective.

    rounds: messages that wait for each other. num_bytes: bytes carried by them. added_bytes: bytes
    of partial sums added in between.
    """

    rounds: int
    num_bytes: float
    added_bytes: float


def _commit_rounds(world_size: int) -> int:
    """Rounds of the dissemination in which all ranks agree that the step is complete."""
    return (world_size - 1).bit_length()


def _ring(world_size: int, num_bytes: int, num_buckets: int) -> Coefficients:
    hops, chunk = world_size - 1, num_bytes / world_size
    rounds = 2 * hops * num_buckets + _commit_rounds(world_size)
    return Coefficients(rounds, 2 * hops * chunk, hops * chunk)


def _tree(world_size: int, num_bytes: int, num_buckets: int) -> Coefficients:
    levels = (world_size - 1).bit_length()
    rounds = 2 * levels * num_buckets + _commit_rounds(world_size)
    return Coefficients(rounds, 2 * levels * num_bytes, levels * num_bytes)


def _parameter_server(world_size: int, num_bytes: int, num_buckets: int) -> Coefficients:
    """One server, through whose port and CPU every push, verdict and pull passes."""
    rounds = (2 * num_buckets + 1) * world_size
    carried = 2 * world_size * num_bytes
    return Coefficients(rounds, carried, (world_size - 1) * num_bytes)


_TERMS: Mapping[str, Callable[[int, int, int], Coefficients]] = {
    "ring": _ring,
    "tree": _tree,
    "parameter_server": _parameter_server,
}


MODELLED = tuple(_TERMS)
"""Algorithms that have such terms."""


def coefficients(
    algorithm: str, world_size: int, num_bytes: int, num_buckets: int = 1
) -> Coefficients:
    """The terms of the closed form rounds * alpha + bytes / beta + added bytes * gamma.

    Of a whole step, commit included: the collective benchmark times that.

    Ring: Patarasuk & Yuan, 2009; tree: Thakur, Rabenseifner & Gropp, 2005; parameter server: Li et
    al., 2014, with one server. Raises ConfigError for any other algorithm.
    """
    if algorithm not in _TERMS:
        raise ConfigError("algorithm", algorithm, f"one of {', '.join(_TERMS)}")
    return _TERMS[algorithm](world_size, num_bytes, num_buckets)
