"""One simulated rank's model: it fulfils the local effects and checks what is applied."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from dmlf.errors import SchemaMismatch, SimulationFailure
from dmlf.numerics import ExactAccumulator, Float32Accumulator, MockTensor, all_finite
from dmlf.numerics.exact import Float32
from dmlf.numerics.mock import canonical, leaves
from dmlf.protocol import Fold
from dmlf.simulation.invariants import (
    APPLIED_ONCE,
    CORRECT_SUM,
    EQUAL_HASH,
    NON_FINITE,
    ONE_CONTRIBUTION,
    PUBLISHED_ORDER,
    View,
)
from dmlf.simulation.scenario import (
    Reference,
    Scenario,
    apply_gradient,
    groups_of,
    mock_value,
    parameters_sha256,
)
from dmlf.simulation.tracked import TrackedAccumulator

_canonical = lru_cache(maxsize=1 << 14)(canonical)


class Replica:
    """Parameters and buckets of one rank, and what of each step is done.

    A server has the buckets that it owns and no others.
    non_finite: (step, bucket) in which this rank's own gradient holds a NaN.
    Every method raises SimulationFailure when what the protocol asks breaks an invariant.
    """

    def __init__(
        self,
        scenario: Scenario,
        reference: Reference,
        rank: int,
        non_finite: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self._scenario = scenario
        self._reference = reference
        self._rank = rank
        self._non_finite = non_finite
        self._is_server = rank >= scenario.world_size
        held = scenario.held_buckets(rank)
        self._gradient_storage = {b: np.zeros(scenario.bucket_numels[b], np.float32) for b in held}
        # One after the other, as in `dmlf.training.gradients`.
        one_by_one = scenario.algorithm.all_reduce is not None
        self._total = np.zeros(max(scenario.bucket_numels), np.int64) if one_by_one else None
        self._parameters: dict[int, Float32] = {b: reference.initial[b].copy() for b in held}
        self._buckets: dict[int, TrackedAccumulator] = {}
        self._written: set[int] = set()
        self._holds_sum = False
        self.step = 0
        self.version = 0

    def begin_step(self, step: int) -> None:
        """Forget the buckets of the step before."""
        self.step = step
        self._buckets.clear()
        self._written.clear()
        self._holds_sum = False

    def end_step(self) -> None:
        """Check that the step has changed the parameters."""
        self._require(self.version == self.step + 1, "returned without its result")

    def gradient(self, step: int, bucket: int) -> TrackedAccumulator:
        """The accumulator of one bucket; its storage is used again in every step."""
        held = bucket in self._parameters
        fresh = held and step == self.step and bucket not in self._buckets
        self._require(fresh, f"asked for the gradient of step {step} bucket {bucket}")
        scenario, rank = self._scenario, self._rank
        flat = self._gradient_storage[bucket]
        numel = flat.size
        real: Float32Accumulator | ExactAccumulator
        if scenario.reduction == "float32":
            flat[...] = 0 if self._is_server else self._reference.gradients[step][rank][bucket]
            if (step, bucket) in self._non_finite:
                flat[-1:] = np.nan
            real = Float32Accumulator(rank, flat)
        else:
            shards = (
                np.empty((0, numel), dtype=np.float32)
                if self._is_server
                else self._reference.shards[step][rank][bucket]
            )
            if (step, bucket) in self._non_finite:
                shards = shards.copy()
                shards[-1, -1:] = np.nan
            flat[...] = 0
            terms = self._reference.num_terms
            total = None if self._total is None else self._total[:numel]
            real = ExactAccumulator(rank, shards, groups_of(numel), terms, flat, total)
        values = [0 if self._is_server else mock_value(step, rank, bucket, i) for i in range(numel)]
        tensor = MockTensor(values, [scenario.leaf(step, rank)] * numel)
        accumulator = TrackedAccumulator(rank, real, tensor)
        self._buckets[bucket] = accumulator
        return accumulator

    def apply(self, step: int) -> None:
        """Check every bucket that is here against the reference; let the optimizer step."""
        fresh = step == self.step and self.version == step
        self._require(fresh, f"applied step {step} at version {self.version}")
        for bucket, parameters in self._parameters.items():
            accumulator = self._buckets.get(bucket)
            if accumulator is None:
                raise SimulationFailure(
                    ONE_CONTRIBUTION, f"{self._where(bucket)}: no gradient was ever taken"
                )
            self._check_folds(bucket, accumulator.mock.tensor)
            if not all_finite(accumulator.real.flat):
                raise SimulationFailure(NON_FINITE, f"{self._where(bucket)} was applied")
            if accumulator.real.flat.tobytes() != self._reference.sums[step][bucket]:
                raise SimulationFailure(
                    CORRECT_SUM, f"{self._where(bucket)} differs from the serial reference"
                )
            apply_gradient(parameters, accumulator.real.flat)
        self._advance_version()

    def read(self, bucket: int) -> Float32:
        """The parameters of one bucket: a view."""
        self._require(bucket in self._parameters, f"read bucket {bucket}, which it does not own")
        return self._parameters[bucket]

    def write(self, bucket: int, payload: Any) -> None:
        """Replace the parameters of one bucket; the last bucket makes the new version."""
        numel = self._scenario.bucket_numels[bucket]
        if not isinstance(payload, np.ndarray) or payload.shape != (numel,):
            raise SchemaMismatch(self._rank, f"float32[{numel}]", payload, "parameters")
        held = bucket in self._parameters
        fresh = held and self.version == self.step and bucket not in self._written
        self._require(fresh, f"wrote the parameters of bucket {bucket} again")
        self._parameters[bucket][...] = payload
        self._written.add(bucket)
        if len(self._written) == len(self._parameters):
            self._advance_version()

    def view(self) -> View:
        """What can be seen from outside."""
        gradients_in = len(self._buckets) == len(self._parameters)
        return View(self.step, self.version, gradients_in, gradients_in and self._has_sum())

    def _has_sum(self) -> bool:
        if not self._holds_sum:
            expected = self._reference.folds[self.step]
            self._holds_sum = all(
                [_canonical(fold) for fold in accumulator.mock.tensor.folds] == expected[bucket]
                and accumulator.is_finite()
                for bucket, accumulator in self._buckets.items()
            )
        return self._holds_sum

    def _advance_version(self) -> None:
        self.version += 1
        expected = self._reference.versions[self.version]
        for bucket, found in zip(
            self._parameters, parameters_sha256([*self._parameters.values()]), strict=True
        ):
            if found != expected[bucket]:
                raise SimulationFailure(
                    EQUAL_HASH,
                    f"rank {self._rank} has {found[:12]} as version {self.version} of bucket "
                    f"{bucket}, the reference {expected[bucket][:12]}",
                )

    def _check_folds(self, bucket: int, tensor: MockTensor) -> None:
        expected = self._reference.folds[self.step][bucket]
        for index, (fold, right) in enumerate(zip(tensor.folds, expected, strict=True)):
            if _canonical(fold) != right:
                self._raise_wrong_fold(bucket, index, fold, right)
        if tensor.values != self._reference.values[self.step][bucket]:
            raise SimulationFailure(CORRECT_SUM, f"{self._where(bucket)} has elements swapped")

    def _raise_wrong_fold(self, bucket: int, index: int, fold: Fold, right: Fold) -> None:
        where = f"{self._where(bucket)}, element {index}"
        if sorted(leaves(fold)) == sorted(leaves(right)):
            raise SimulationFailure(PUBLISHED_ORDER, f"{where} was added in another order")
        size = self._scenario.group_size
        parts = [divmod(leaf, size) for leaf in leaves(fold)]
        found = ", ".join(f"rank {rank} step {step}" for step, rank in parts)
        raise SimulationFailure(ONE_CONTRIBUTION, f"{where} is the sum of ({found})")

    def _where(self, bucket: int) -> str:
        return f"rank {self._rank}, step {self.step}, bucket {bucket}"

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise SimulationFailure(APPLIED_ONCE, f"rank {self._rank}, step {self.step}: {what}")
