"""How named parameter tensors are laid out in flat buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dmlf.protocol import BucketShape


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one tensor lies: its name and shape, and its slice of the bucket."""

    name: str
    shape: tuple[int, ...]
    slice: slice


@dataclass(frozen=True, slots=True)
class Bucket:
    """A group of whole tensors that is synchronised at once."""

    index: int
    placements: tuple[Placement, ...]

    @property
    def numel(self) -> int:
        """Elements of all tensors together."""
        return sum(math.prod(placement.shape) for placement in self.placements)

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return [placement.name for placement in self.placements]

    @property
    def groups(self) -> list[slice]:
        """The slice of each tensor."""
        return [placement.slice for placement in self.placements]

    def shape(self, exact: bool) -> BucketShape:
        """What decides the bucket's traffic: exact sums travel as int64, with int16 scales."""
        if exact:
            return BucketShape(self.numel, 8, 2 * len(self.placements))
        return BucketShape(self.numel)


def make_buckets(shapes: Mapping[str, tuple[int, ...]], cap_bytes: int) -> list[Bucket]:
    """Group float32 tensors into buckets of at most `cap_bytes`; a larger tensor has its own.

    Tensors are taken last to first, which is the order in which backward completes them. No
    tensor is split, so that the results of the exact reduction do not depend on `cap_bytes`.
    """
    buckets: list[Bucket] = []
    placements: list[Placement] = []
    numel = 0
    for name, shape in reversed(list(shapes.items())):
        size = math.prod(shape)
        if placements and (numel + size) * 4 > cap_bytes:
            buckets.append(Bucket(len(buckets), tuple(placements)))
            placements, numel = [], 0
        placements.append(Placement(name, tuple(shape), slice(numel, numel + size)))
        numel += size
    buckets.append(Bucket(len(buckets), tuple(placements)))
    return buckets
