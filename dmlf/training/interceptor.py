"""Catches the gradient of every parameter right after backward has completed it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dmlf.numerics.exact import Float32

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class GradientSnapshot:
    """One parameter's gradient in one step.

    dtype is torch's name (`float32`); norm is the Euclidean norm; values are a copy, or None
    unless the interceptor was asked to keep them.
    """

    step: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float
    values: Float32 | None = field(repr=False)


class GradientInterceptor:
    """Hooks on parameters that move each completed gradient to where it is synchronised.

    The hook runs once per parameter and backward pass, when autograd has accumulated the
    gradient; it copies the gradient to the vector of that name in `destination` (see `redirect`)
    and clears `parameter.grad`. With `record=True` it also keeps a snapshot.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]],
        *,
        record: bool = False,
        keep_values: bool = False,
    ) -> None:
        self.snapshots: list[GradientSnapshot] = []
        self._record = record or keep_values
        self._keep_values = keep_values
        self._step = 0
        self._destination: Mapping[str, Float32] = {}
        self._seen: set[str] = set()
        self._on_complete: Callable[[str], None] | None = None
        self._handles: list[Any] = [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                self._hook(name)
            )
            for name, parameter in named_parameters
            if parameter.requires_grad
        ]

    def redirect(
        self,
        step: int,
        destination: Mapping[str, Float32],
        on_complete: Callable[[str], None] | None = None,
    ) -> None:
        """Send the gradients of the next backward passes to `destination` (name -> array).

        on_complete: called with each name as soon as its gradient is there, which then is the
        whole of it: a second one in the same pass raises RuntimeError.
        """
        self._on_complete = on_complete
        self._step = step
        self._destination = destination
        self._seen.clear()

    def zero_unseen(self) -> None:
        """Fill with zeros the destinations of parameters that took no part in the backward."""
        for name, view in self._destination.items():
            if name not in self._seen:
                view[...] = 0.0

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str) -> Callable[[torch.Tensor], None]:
        def on_complete(parameter: torch.Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            values = gradient.detach().numpy()
            if self._record:
                self._snapshot(name, gradient, values)
            view = self._destination.get(name)
            if view is None:
                return
            if name in self._seen:
                if self._on_complete is not None:
                    raise RuntimeError(
                        f"parameter {name} received its gradient in several parts (reentrant "
                        "checkpointing does that), after its bucket was sent; turn overlap off"
                    )
                view += values
            else:
                view[...] = values
                self._seen.add(name)
            parameter.grad = None
            if self._on_complete is not None:
                self._on_complete(name)

        return on_complete

    def _snapshot(self, name: str, gradient: torch.Tensor, values: Float32) -> None:
        self.snapshots.append(
            GradientSnapshot(
                step=self._step,
                name=name,
                shape=tuple(gradient.shape),
                dtype=str(gradient.dtype).removeprefix("torch."),
                norm=float(np.linalg.norm(values.ravel().astype(np.float64))),
                values=values.copy() if self._keep_values else None,
            )
        )
