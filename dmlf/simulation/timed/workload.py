"""What is computed in a step, and how long that takes on which rank."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from dmlf.errors import ConfigError
from dmlf.protocol import BucketShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One training step of a rank: the buckets, and when each is ready.

    ready_s: seconds from the step's start at which backward has completed each bucket; the last is
    `compute_s`, as backward is over with it. Without overlap all are held until then.
    """

    buckets: tuple[BucketShape, ...]
    ready_s: tuple[float, ...]
    compute_s: float
    overlap: bool = True

    def __post_init__(self) -> None:
        if not self.buckets or len(self.buckets) != len(self.ready_s):
            raise ConfigError("ready_s", self.ready_s, f"{len(self.buckets)} times, at least one")
        if not (math.isfinite(self.compute_s) and self.compute_s >= 0):
            raise ConfigError("compute_s", self.compute_s, "a finite number of at least 0")
        ascending = all(a <= b for a, b in zip(self.ready_s, self.ready_s[1:], strict=False))
        if not (ascending and self.ready_s[0] >= 0 and self.ready_s[-1] <= self.compute_s):
            allowed = f"ascending times from 0 to compute_s ({self.compute_s:g})"
            raise ConfigError("ready_s", self.ready_s, allowed)

    @property
    def released_s(self) -> tuple[float, ...]:
        """When each bucket may be sent: as in `dmlf.training.synchronizer`, the last at the end."""
        if self.overlap:
            return (*self.ready_s[:-1], self.compute_s)
        return (self.compute_s,) * len(self.buckets)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all float32 gradients."""
        return 4 * sum(bucket.numel for bucket in self.buckets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggling:
    """How computation differs among ranks and steps, as factors of `compute_s`.

    sigma: of a lognormal factor with median 1, drawn for each rank and step. slow_ranks: how many
    ranks, evenly spread, always take `slow_factor` times as long. A pure function of the seed.
    """

    sigma: float = 0.0
    slow_ranks: int = 0
    slow_factor: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 5:
            raise ConfigError("straggling_sigma", self.sigma, "a number from 0 to 5")
        if not (math.isfinite(self.slow_factor) and self.slow_factor >= 1):
            raise ConfigError("slow_factor", self.slow_factor, "a finite number of at least 1")
        if self.slow_ranks < 0:
            raise ConfigError("slow_ranks", self.slow_ranks, "an integer of at least 0")

    @property
    def is_none(self) -> bool:
        """Whether all ranks always take the same time."""
        return self.sigma == 0 and (self.slow_ranks == 0 or self.slow_factor == 1)

    def factors(self, step: int, world_size: int) -> list[float]:
        """The factor of every worker in one step."""
        factors = [1.0] * world_size
        if self.sigma:
            normal = random.Random(f"straggling {self.seed} {step}").gauss
            factors = [math.exp(self.sigma * normal(0.0, 1.0)) for _ in range(world_size)]
        count = min(self.slow_ranks, world_size)
        for index in range(count):
            factors[index * world_size // count] *= self.slow_factor
        return factors

    def expected_maximum(self, world_size: int) -> float:
        """The mean over steps of the largest factor: E[max] of so many lognormal draws.

        Without slow ranks among them it is exact to the integration (midpoints of 4096 equal
        probabilities of the maximum, whose quantile p is the factor's quantile p ** (1 / n)).
        """
        slow = min(self.slow_ranks, world_size)
        if not self.sigma:
            return self.slow_factor if slow else 1.0
        groups = [(world_size - slow, 1.0), (slow, self.slow_factor)]
        return max(_mean_of_maximum(count, self.sigma) * f for count, f in groups if count)


def _mean_of_maximum(count: int, sigma: float) -> float:
    cuts, normal = 4096, NormalDist()
    total = 0.0
    for cut in range(cuts):
        # log of the quantile, kept apart from 1 by working with its distance to 1
        below = -math.expm1(math.log((cut + 0.5) / cuts) / count)
        total += math.exp(-sigma * normal.inv_cdf(below))
    return total / cuts


def evenly_ready(shapes: Sequence[BucketShape], forward_s: float, backward_s: float) -> list[float]:
    """When buckets are ready if backward's time is spread over parameters evenly."""
    total = sum(shape.numel for shape in shapes)
    ready, seen = [], 0
    for shape in shapes:
        seen += shape.numel
        ready.append(forward_s + backward_s * seen / total)
    return ready
