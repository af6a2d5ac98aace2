"""What is trained, as buckets and the times at which backward completes them.

Where only the time of a whole step is known, forward takes a third of it and backward two (it
computes gradients of inputs and of weights), spread over the parameters evenly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dmlf.benchmark.files import read_json
from dmlf.errors import ConfigError, MetricsError
from dmlf.protocol import BucketShape
from dmlf.simulation.timed import MAX_SECONDS, Workload, evenly_ready
from dmlf.training.layout import make_buckets

FORWARD_PART = 1 / 3
MAX_BUCKETS = 10_000
MAX_PARAMETERS = 10**13


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter tensor: its elements, and the seconds that backward takes for its gradient."""

    name: str
    numel: int
    backward_s: float | None = None


def mlp_tensors(sizes: Sequence[int]) -> list[Tensor]:
    """Weights and biases of a multi-layer perceptron; sizes: of all layers, inputs first."""
    found = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        found.append(Tensor(f"{index}.weight", inputs * outputs))
        found.append(Tensor(f"{index}.bias", outputs))
    return found


def even_tensors(parameters: int, cap_bytes: int) -> list[Tensor]:
    """So many parameters in tensors of equal size, one for each bucket. Raises ConfigError."""
    if not 1 <= parameters <= MAX_PARAMETERS:
        raise ConfigError("parameters", parameters, f"an integer from 1 to {MAX_PARAMETERS}")
    count = _checked_count(-(-4 * parameters // cap_bytes), cap_bytes)
    base, longer = divmod(parameters, count)
    return [Tensor(f"part {index}", base + (index < longer)) for index in range(count)]


def read_tensors(path: Path) -> list[Tensor]:
    """Read a JSON list of {"name", "numel" or "shape", "backward_s"} in the order of forward.

    backward_s may be absent, of all tensors or none. Raises ConfigError.
    """
    try:
        values = read_json(path)
    except (MetricsError, OSError) as error:
        raise ConfigError("tensors", str(path), f"a readable JSON file ({error})") from None
    if not isinstance(values, list) or not values:
        raise ConfigError("tensors", str(path), "a JSON list with at least one tensor")
    found = [_tensor(index, value) for index, value in enumerate(values)]
    if len({tensor.name for tensor in found}) != len(found):
        raise ConfigError("tensors", str(path), "tensors of different names")
    if len({tensor.backward_s is None for tensor in found}) != 1:
        raise ConfigError("tensors", str(path), "backward_s for all tensors or for none")
    return found


def make_workload(
    tensors: Sequence[Tensor], *, compute_s: float, cap_bytes: int, overlap: bool, exact: bool
) -> Workload:
    """Lay tensors out in buckets as training does, last to first. Raises ConfigError."""
    if not 0 <= compute_s <= MAX_SECONDS:
        raise ConfigError("compute_s", compute_s, f"a number from 0 to {MAX_SECONDS:g}")
    backward_s = {tensor.name: tensor.backward_s for tensor in tensors}
    buckets = make_buckets({tensor.name: (tensor.numel,) for tensor in tensors}, cap_bytes)
    _checked_count(len(buckets), cap_bytes)
    shapes = tuple(bucket.shape(exact) for bucket in buckets)
    times = [tensor.backward_s for tensor in tensors if tensor.backward_s is not None]
    if not times:
        ready = evenly_ready(shapes, FORWARD_PART * compute_s, (1 - FORWARD_PART) * compute_s)
    else:
        if math.fsum(times) > compute_s * (1 + 1e-9):
            allowed = f"at least the time of all backward_s together ({math.fsum(times):g})"
            raise ConfigError("compute_s", compute_s, allowed)
        now_s, ready = max(0.0, compute_s - math.fsum(times)), []
        for bucket in buckets:
            now_s += math.fsum(backward_s[name] or 0.0 for name in bucket.names)
            ready.append(now_s)
    ready = [min(moment_s, compute_s) for moment_s in ready]
    return Workload(buckets=shapes, ready_s=tuple(ready), compute_s=compute_s, overlap=overlap)


def num_parameters(shapes: Sequence[BucketShape]) -> int:
    """Elements of all buckets."""
    return sum(shape.numel for shape in shapes)


def _checked_count(count: int, cap_bytes: int) -> int:
    if count > MAX_BUCKETS:
        allowed = f"a size that makes at most {MAX_BUCKETS} buckets, not {count}"
        raise ConfigError("bucket_cap_bytes", cap_bytes, allowed)
    return count


def _tensor(index: int, value: Any) -> Tensor:
    key = f"tensors[{index}]"
    if not isinstance(value, Mapping) or not set(value) <= {"name", "numel", "shape", "backward_s"}:
        raise ConfigError(key, value, 'an object with "name", "numel" or "shape", "backward_s"')
    if ("numel" in value) == ("shape" in value):
        raise ConfigError(key, value, 'either "numel" or "shape"')
    sizes = value["shape"] if "shape" in value else [value["numel"]]
    if not isinstance(sizes, list) or not all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in sizes
    ):
        raise ConfigError(key, sizes, "sizes that are integers of at least 1")
    numel = math.prod(sizes)
    if numel > MAX_PARAMETERS:
        raise ConfigError(key, numel, f"at most {MAX_PARAMETERS} elements")
    backward_s = value.get("backward_s")
    if backward_s is not None and (
        isinstance(backward_s, bool) or not isinstance(backward_s, int | float) or backward_s < 0
    ):
        raise ConfigError(f"{key}.backward_s", backward_s, "a number of at least 0")
    name = value.get("name", f"tensor {index}")
    if not isinstance(name, str):
        raise ConfigError(f"{key}.name", name, "a text")
    return Tensor(name, numel, backward_s)
