"""Gradients of several parameters in one flat vector, where a group can send them from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dmlf.errors import ConfigError
from dmlf.group import Group
from dmlf.numerics import ExactAccumulator, Float32Accumulator
from dmlf.protocol import Accumulator
from dmlf.training.layout import Bucket, make_buckets

_ADDED_AS = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float32,
    torch.bfloat16: np.float32,
}
"""Gradients of 16 bits are summed in float32, and rounded once at the end."""


class GradientBucket:
    """The gradients of `parameters` on their way from `.grad` to their sum, and back.

    flat: [numel] float32 or float64, in the group's memory. In `float32` it is filled from `.grad`
    and replaced by the sum. In `exact` every backward pass is kept as a row of its own, a term of
    the sum. Where dtype and device allow, `.grad` is a view of `flat` afterwards.
    """

    def __init__(
        self,
        group: Group,
        layout: Bucket,
        parameters: Sequence[torch.Tensor],
        *,
        exact: bool,
        divisor: int,
        threads: int,
    ) -> None:
        dtype = _ADDED_AS[parameters[0].dtype]
        self.layout = layout
        self.parameters = parameters
        self._rank = group.rank
        self._exact = exact
        self._divisor = divisor
        self._threads = threads
        self.flat: npt.NDArray[Any] = group.allocate(layout.numel, dtype)
        self._views = self._views_of(self.flat)
        self._total = group.allocate(layout.numel, np.int64) if exact else None
        self._rows: npt.NDArray[np.float32] = np.empty((0, layout.numel), np.float32)
        self._num_terms = 0
        self._seen = [False] * len(parameters)
        self._holds_sum = [False] * len(parameters)

    def check_cleared(self, index: int) -> None:
        """Raise ConfigError if `.grad` still is the sum of all ranks: it would be summed again."""
        gradient = self.parameters[index].grad
        if self._holds_sum[index] and gradient is not None and bool(gradient.any()):
            name = self.layout.placements[index].name
            allowed = "zero_grad() first; to accumulate, all passes but the last in no_sync()"
            raise ConfigError(f"gradient of {name}", "the sum of all ranks already", allowed)
        self._holds_sum[index] = False

    def move_in(self, index: int) -> None:
        """Bring the gradient of one parameter here while it is in the cache, and free its own."""
        parameter, view = self.parameters[index], self._views[index]
        gradient = parameter.grad
        if gradient is not None and gradient is not view and _alike(gradient, view):
            self._check_dense(index)
            view.copy_(gradient)
            parameter.grad = view

    def has_gradient(self) -> list[bool]:
        """For each parameter, whether this rank has a gradient of it since the last sum."""
        if self._exact:
            return self._seen
        return [parameter.grad is not None for parameter in self.parameters]

    def add_term(self) -> None:
        """Exact: keep what `.grad` holds as one term of the sum, and clear it."""
        if self._num_terms == len(self._rows):
            grown = np.empty((max(1, 2 * len(self._rows)), self.layout.numel), np.float32)
            grown[: len(self._rows)] = self._rows
            self._rows = grown
        row = self._rows[self._num_terms]
        self._num_terms += 1
        self._fill(self._views_of(row))
        self._seen = [
            seen or parameter.grad is not None
            for seen, parameter in zip(self._seen, self.parameters, strict=True)
        ]
        for parameter in self.parameters:
            parameter.grad = None

    def accumulator(self, num_terms: int) -> Accumulator:
        """This rank's part of the sum, or mean. num_terms: of all ranks together, if exact."""
        if not self._exact:
            self._fill(self._views)
            return Float32Accumulator(self._rank, self.flat, self._divisor, self._threads)
        return ExactAccumulator(
            self._rank,
            self._rows[: self._num_terms],
            self.layout.groups,
            num_terms,
            self.flat,
            self._total,
            self._divisor,
            self._threads,
        )

    def hand_out(self, used: Sequence[bool]) -> None:
        """Make the result `.grad` of the parameters that are `used` on any rank."""
        for parameter, view, is_used in zip(self.parameters, self._views, used, strict=True):
            if is_used:
                same = _alike(parameter, view)
                parameter.grad = view if same else view.to(parameter.device, parameter.dtype)
        self._holds_sum = [
            holds or is_used for holds, is_used in zip(self._holds_sum, used, strict=True)
        ]

    def forget_terms(self) -> None:
        """Exact: begin anew; no term is kept."""
        self._num_terms = 0
        self._seen = [False] * len(self.parameters)

    def _fill(self, views: Sequence[torch.Tensor]) -> None:
        """Copy `.grad` of all parameters to `views`; zeros where there is none."""
        targets, gradients = [], []
        for index, (parameter, view) in enumerate(zip(self.parameters, views, strict=True)):
            gradient = parameter.grad
            if gradient is None:
                view.zero_()
            elif gradient is not view:
                self._check_dense(index)
                targets.append(view)
                gradients.append(gradient)
        if targets:
            torch._foreach_copy_(targets, gradients)

    def _check_dense(self, index: int) -> None:
        gradient = self.parameters[index].grad
        assert gradient is not None
        if gradient.layout != torch.strided:
            name = self.layout.placements[index].name
            allowed = "a dense gradient (for an embedding: sparse=False)"
            raise ConfigError(f"gradient of {name}", str(gradient.layout), allowed)

    def _views_of(self, flat: npt.NDArray[Any]) -> list[torch.Tensor]:
        tensor = torch.from_numpy(flat)
        return [tensor[at.slice].view(at.shape) for at in self.layout.placements]


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device


def gradient_buckets(
    group: Group,
    named: Mapping[str, torch.Tensor],
    *,
    exact: bool,
    divisor: int,
    cap_bytes: int,
    threads: int,
) -> list[GradientBucket]:
    """Lay out the gradients of `named` parameters in buckets, each of one dtype.

    divisor: of their sums. threads: how many add what is received.
    Raises ConfigError for a parameter whose gradient cannot be summed.
    """
    return [
        GradientBucket(
            group,
            layout,
            [named[name] for name in layout.names],
            exact=exact,
            divisor=divisor,
            threads=threads,
        )
        for shapes, cap in _by_dtype(named, exact, cap_bytes)
        for layout in make_buckets(shapes, cap)
    ]


def _by_dtype(
    named: Mapping[str, torch.Tensor], exact: bool, cap_bytes: int
) -> Iterator[tuple[dict[str, tuple[int, ...]], int]]:
    """The shapes of the parameters of each dtype, and the cap as if they were float32."""
    allowed = [dtype for dtype, added in _ADDED_AS.items() if added == np.float32 or not exact]
    by_dtype: dict[torch.dtype, dict[str, tuple[int, ...]]] = {}
    for name, parameter in named.items():
        if parameter.dtype not in allowed:
            expected = ", ".join(str(dtype) for dtype in allowed)
            raise ConfigError(f"parameter {name}", str(parameter.dtype), expected)
        by_dtype.setdefault(parameter.dtype, {})[name] = tuple(parameter.shape)
    for dtype, shapes in by_dtype.items():
        yield shapes, cap_bytes * 4 // np.dtype(_ADDED_AS[dtype]).itemsize
