"""How a projected efficiency moves with straggling, and with the size of buckets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dmlf.benchmark.projection.rows import Request, project_one
from dmlf.errors import ConfigError
from dmlf.simulation.timed import Workload

SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.4)
CAPS = tuple(1 << exponent for exponent in range(16, 30, 2))
WORLD_SIZE = 64
_MESSAGES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """One point: `value` of `quantity` (`straggling_sigma` or `bucket_cap_bytes`), all else equal.

    Weak scaling at `world_size`.
    """

    quantity: str
    value: float
    algorithm: str
    num_servers: int
    world_size: int
    method: str
    efficiency: float
    step_s: float


def sensitivities(
    request: Request, workload_of_cap: Callable[[int], Workload]
) -> Iterator[Sensitivity]:
    """Points for every contestant, at the world size that is nearest to WORLD_SIZE.

    workload_of_cap: the workload with buckets of at most so many bytes.
    """
    request = replace(request, max_messages=_MESSAGES)
    world_size = min(request.world_sizes, key=lambda size: abs(size - WORLD_SIZE))
    variants: list[tuple[str, float, Request]] = [
        (
            "straggling_sigma",
            sigma,
            replace(request, straggling=replace(request.straggling, sigma=sigma)),
        )
        for sigma in SIGMAS
    ]
    for cap_bytes in CAPS:
        try:
            workload = workload_of_cap(cap_bytes)
        except ConfigError:  # more buckets than can be followed
            continue
        variants.append(("bucket_cap_bytes", float(cap_bytes), replace(request, workload=workload)))
    for quantity, value, varied in variants:
        for contestant in request.contestants:
            row = project_one(varied, contestant, "weak", world_size)
            yield Sensitivity(
                quantity=quantity,
                value=value,
                algorithm=row.algorithm,
                num_servers=row.num_servers,
                world_size=world_size,
                method=row.method,
                efficiency=row.efficiency,
                step_s=row.step_s,
            )
