"""Step time, throughput and efficiency at world sizes that no machine here has.

Up to a world size, and as long as a simulation stays short, the timed simulator drives the
protocol itself; beyond, its closed form gives the time. Every row says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

from dmlf.benchmark.projection.bottleneck import bottleneck, scaled
from dmlf.config import MAX_WORLD_SIZE
from dmlf.errors import ConfigError
from dmlf.protocol import Algorithm, registry
from dmlf.simulation.timed import Cluster, Straggling, TimedWorld, Workload
from dmlf.simulation.timed.closed_forms import CLOSED_FORMS, closed_form_step_s

Scaling = Literal["weak", "strong"]
SCALINGS: tuple[Scaling, ...] = ("weak", "strong")
SIMULATED, CLOSED_FORM = "simulated", "closed form"

MAX_PROJECTED = 100_000
MAX_SIMULATED = 1024
MAX_SIMULATED_MESSAGES = 2_200_000
"""Ten seconds of simulation, or a ring of 1,024 ranks and one bucket."""

_STEPS = {"alone": 1, "servers": 4, "straggling": 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """An algorithm, and how many servers it has beside its workers (0: it knows none)."""

    algorithm: str
    num_servers: int


def contestant_label(algorithm: str, num_servers: int) -> str:
    """An algorithm and its servers, as tables and figures name them."""
    if num_servers == 0:
        return algorithm
    return f"{algorithm}, {num_servers} server{'s' * (num_servers > 1)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to project; samples_per_rank: of one step of one rank in weak scaling.

    In strong scaling that is the whole global batch, and computation is divided by the world size.
    max_messages: a row whose simulation would send more is taken from its closed form.
    """

    cluster: Cluster
    workload: Workload
    contestants: tuple[Contestant, ...]
    world_sizes: tuple[int, ...]
    straggling: Straggling = field(default_factory=Straggling)
    scalings: tuple[Scaling, ...] = SCALINGS
    samples_per_rank: int = 1
    simulate_up_to: int = 256
    max_messages: int = MAX_SIMULATED_MESSAGES

    def __post_init__(self) -> None:
        for size in self.world_sizes:
            if not 1 <= size <= MAX_PROJECTED:
                raise ConfigError("world_sizes", size, f"integers from 1 to {MAX_PROJECTED}")
        if not self.world_sizes:
            raise ConfigError("world_sizes", (), "at least one world size")
        if not 0 <= self.simulate_up_to <= MAX_SIMULATED:
            allowed = f"an integer from 0 to {MAX_SIMULATED}"
            raise ConfigError("simulate_up_to", self.simulate_up_to, allowed)
        if self.samples_per_rank < 1:
            raise ConfigError("samples_per_rank", self.samples_per_rank, "an integer of at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One projected point. Times are seconds of a step.

    compute_s: without straggling. straggling_s: what the slowest rank takes longer.
    exposed_communication_s: the rest of the step. efficiency: weak: compute_s / step_s; strong:
    the time of one rank alone over world_size times step_s. bottleneck_gain: the part of the step
    that twice as much of the bottleneck would take away.
    """

    algorithm: str
    num_servers: int
    scaling: Scaling
    world_size: int
    num_hosts: int
    method: str
    step_s: float
    compute_s: float
    straggling_s: float
    exposed_communication_s: float
    throughput_samples_per_s: float
    efficiency: float
    bottleneck: str
    bottleneck_gain: float


def contestants(algorithms: list[str], num_servers: list[int]) -> tuple[Contestant, ...]:
    """Every algorithm, with every number of servers if it has servers. Raises ConfigError."""
    found = []
    for name in dict.fromkeys(algorithms):
        if name not in registry():
            raise ConfigError("algorithms", name, f"one of {', '.join(registry())}")
        for count in dict.fromkeys(num_servers):
            if not 1 <= count <= MAX_WORLD_SIZE:
                raise ConfigError("num_servers", count, f"integers from 1 to {MAX_WORLD_SIZE}")
            found.append(
                Contestant(algorithm=name, num_servers=registry()[name].server_count(count))
            )
    return tuple(dict.fromkeys(found))


def project(request: Request) -> Iterator[Row]:
    """All rows, by scaling, contestant and world size."""
    for scaling in request.scalings:
        for contestant in request.contestants:
            for world_size in sorted(set(request.world_sizes)):
                yield project_one(request, contestant, scaling, world_size)


def project_one(request: Request, contestant: Contestant, scaling: Scaling, world_size: int) -> Row:
    """One row. Raises ConfigError where neither simulator nor closed form can tell."""
    algorithm, cluster = registry()[contestant.algorithm], request.cluster
    servers = contestant.num_servers
    alone = request.workload
    workload = alone if scaling == "weak" else scaled(alone, 1 / world_size)
    simulate = partial(_simulated_step_s, algorithm, world_size, servers)
    messages = _num_steps(algorithm, request.straggling) * (
        algorithm.traffic(workload.buckets, world_size, servers).messages
    )
    has_form = contestant.algorithm in CLOSED_FORMS
    is_simulated = world_size <= request.simulate_up_to and messages <= request.max_messages
    if is_simulated:
        step_s, slowest_s = simulate(cluster, workload, request.straggling)
    elif has_form:
        step_s = closed_form_step_s(
            contestant.algorithm, cluster, workload, world_size, servers, request.straggling
        )
        slowest_s = workload.compute_s * request.straggling.expected_maximum(world_size)
    else:
        allowed = f"at most simulate_up_to ({request.simulate_up_to}) and few buckets, as "
        allowed += f"{contestant.algorithm} has no closed form"
        raise ConfigError("world_sizes", world_size, allowed)

    def quick_step_s(on: Cluster, what: Workload, with_straggling: Straggling) -> float:
        if has_form:
            return closed_form_step_s(
                contestant.algorithm, on, what, world_size, servers, with_straggling
            )
        return simulate(on, what, with_straggling)[0]

    found = bottleneck(quick_step_s, cluster, workload, request.straggling)
    samples = request.samples_per_rank * (world_size if scaling == "weak" else 1)
    return Row(
        algorithm=contestant.algorithm,
        num_servers=servers,
        scaling=scaling,
        world_size=world_size,
        num_hosts=cluster.num_hosts(world_size) + servers,
        method=SIMULATED if is_simulated else CLOSED_FORM,
        step_s=step_s,
        compute_s=workload.compute_s,
        straggling_s=slowest_s - workload.compute_s,
        exposed_communication_s=max(0.0, step_s - slowest_s),
        throughput_samples_per_s=samples / step_s if step_s else 0.0,
        efficiency=workload.compute_s / step_s if step_s else 1.0,
        bottleneck=found.resource,
        bottleneck_gain=found.gain,
    )


def as_mapping(request: Request) -> dict[str, Any]:
    """What was asked for, as JSON-ready plain values."""
    values = asdict(replace(request, world_sizes=tuple(sorted(set(request.world_sizes)))))
    workload = values.pop("workload")
    workload["buckets"] = [bucket["numel"] for bucket in workload["buckets"]]
    workload["exact"] = bool(request.workload.buckets[0].scale_bytes)
    return {**values, "workload": workload}


def _num_steps(algorithm: Algorithm, straggling: Straggling) -> int:
    if straggling.sigma:
        return _STEPS["straggling"]
    return _STEPS["servers" if algorithm.has_servers else "alone"]


def _simulated_step_s(
    algorithm: Algorithm,
    world_size: int,
    num_servers: int,
    cluster: Cluster,
    workload: Workload,
    straggling: Straggling,
) -> tuple[float, float]:
    """Seconds of a step in the long run, and of its slowest computation."""
    steps = _num_steps(algorithm, straggling)
    timing = TimedWorld(
        algorithm, cluster, workload, world_size, num_servers, steps, straggling
    ).run()
    counted = timing.slowest_compute_s[1:] or timing.slowest_compute_s
    return timing.step_s, sum(counted) / len(counted)
