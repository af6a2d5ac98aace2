"""What a checkpoint holds: a run's exact state between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from dmlf.config import RunConfig

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class SamplerPosition:
    """The next step of the sampler: `step` steps into `epoch`, both counted from 0."""

    epoch: int
    step: int

    def fits(self, run_step: int) -> bool:
        """Whether a run that has done `run_step` steps can be here, whatever an epoch's length."""
        before = run_step - self.step  # steps of the whole epochs before this one
        return before == 0 if self.epoch == 0 else before > 0 and before % self.epoch == 0


@dataclass(frozen=True, slots=True)
class OwnLoop:
    """Stands in place of a configuration where the training loop is a user's own."""

    def trajectory(self) -> dict[str, Any]:
        """Nothing is known of it."""
        return {}

    def trajectory_sha256(self) -> str:
        """No configuration has this one."""
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands: everything but its arrays.

    step: steps that are done. random, user: plain JSON values (finite numbers, string keys).
    Every random stream of dmlf is a function of seed and step, so `random` may be empty.
    """

    step: int
    generation: int
    config: RunConfig | OwnLoop
    sampler: SamplerPosition
    random: Mapping[str, Any] = field(default_factory=dict)
    user: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A run's whole state. optimizer: named `parameter.key`. Arrays are kept to the bit.

    dtypes: bool, integers, float16, float32, float64, complex64, and bfloat16 as numpy's void of
    two bytes, little-endian; any shape, also without dimensions or elements.
    """

    state: RunState
    parameters: Arrays
    optimizer: Arrays
