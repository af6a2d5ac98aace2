"""Torch-free tensors that remember how they were made.

A `MockTensor` holds exact numbers and, for each element, the fold that made it: which ranks
contributed, how often, and in what order they were added. Protocols run on `MockAccumulator`
unchanged, so a test can prove that every contribution is counted exactly once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from dmlf.errors import SchemaMismatch
from dmlf.protocol.algorithm import Fold

Number = int | Fraction


def canonical(fold: Fold) -> Fold:
    """The same fold with the operands of each addition in a fixed order (a + b is b + a)."""
    if isinstance(fold, int):
        return fold
    left, right = canonical(fold[0]), canonical(fold[1])
    return (left, right) if repr(left) <= repr(right) else (right, left)


def leaves(fold: Fold) -> list[int]:
    """The ranks of a fold, left to right, as often as they were added."""
    return [fold] if isinstance(fold, int) else leaves(fold[0]) + leaves(fold[1])


class MockTensor:
    """A flat vector of exact numbers with the fold of each element."""

    def __init__(self, values: Sequence[Number], folds: Sequence[Fold]) -> None:
        if len(values) != len(folds):
            raise ValueError("a MockTensor needs one fold for each value")
        self.values = list(values)
        self.folds = list(folds)

    @classmethod
    def of_rank(cls, rank: int, values: Sequence[Number]) -> MockTensor:
        """The local contribution of `rank`."""
        return cls(values, [rank] * len(values))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chunk: slice) -> MockTensor:
        return MockTensor(self.values[chunk], self.folds[chunk])

    def __setitem__(self, chunk: slice, other: MockTensor) -> None:
        if len(self.values[chunk]) != len(other):
            raise ValueError(f"{len(other)} values do not fit {chunk}")
        self.values[chunk] = other.values
        self.folds[chunk] = other.folds

    def __add__(self, other: MockTensor) -> MockTensor:
        if len(self) != len(other):
            raise ValueError(f"cannot add {len(other)} values to {len(self)}")
        values = [a + b for a, b in zip(self.values, other.values, strict=True)]
        folds: list[Fold] = list(zip(self.folds, other.folds, strict=True))
        return MockTensor(values, folds)

    def contributions(self, index: int) -> Counter[int]:
        """How often each rank is in element `index`."""
        return Counter(leaves(self.folds[index]))


class MockAccumulator:
    """`dmlf.protocol.Accumulator` over a MockTensor."""

    def __init__(self, rank: int, tensor: MockTensor) -> None:
        self._rank = rank
        self.tensor = tensor
        self.numel = len(tensor)

    def scale(self) -> None:
        """None: exact numbers need no scale."""

    def merge_scale(self, payload: bytes) -> None:
        """Refuse: there is no scale."""
        raise SchemaMismatch(self._rank, "no scale", payload, "mock reduction")

    def begin(self) -> None:
        """Return at once."""

    def partial(self, chunk: slice) -> MockTensor:
        """A copy of the partial sum of `chunk`."""
        return self.tensor[chunk]

    def load(self, chunk: slice, payload: MockTensor, *others: MockTensor) -> None:
        """Replace the partial sum of `chunk` by that of the payloads."""
        self.tensor[chunk] = self._checked(chunk, payload)
        self.add(chunk, *others)

    def add(self, chunk: slice, *payloads: MockTensor) -> None:
        """Add received partial sums."""
        for payload in payloads:
            self.tensor[chunk] = self._checked(chunk, payload) + self.tensor[chunk]

    def finish(self, chunk: slice, *payloads: MockTensor) -> None:
        """Add the last partial sums: there is nothing to round."""
        self.add(chunk, *payloads)

    def reduced(self, chunk: slice) -> MockTensor:
        """A copy of the final values of `chunk`."""
        return self.tensor[chunk]

    def store(self, chunk: slice, payload: MockTensor) -> None:
        """Take final values from another rank."""
        self.tensor[chunk] = self._checked(chunk, payload)

    def is_finite(self) -> bool:
        """Return True: exact numbers are finite."""
        return True

    def _checked(self, chunk: slice, payload: MockTensor) -> MockTensor:
        if not isinstance(payload, MockTensor) or len(payload) != chunk.stop - chunk.start:
            raise SchemaMismatch(self._rank, f"[{chunk.stop - chunk.start}]", payload, "payload")
        return payload
