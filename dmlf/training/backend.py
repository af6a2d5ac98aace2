"""The seam between training and the library that computes gradients (torch, or numpy alone)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy.typing as npt

from dmlf.numerics.exact import Float32
from dmlf.training.sampler import SampleIds

OnComplete = Callable[[str], None]


class Backend(Protocol):
    """A model, its data and its optimizer. Arrays are float32 and named by parameter."""

    num_samples: int
    num_threads: int | None  # in force in the library; None where it has no threads of its own

    def parameters(self) -> Mapping[str, Float32]:
        """The parameters, as views that can be written to."""

    def forward_backward(
        self,
        sample_ids: SampleIds,
        seed: int,
        gradients: Mapping[str, Float32],
        on_complete: OnComplete | None = None,
    ) -> float:
        """Write the gradient of the loss summed over `sample_ids`; return that loss.

        seed: for whatever the model draws at random. on_complete: called with the names of
        gradients as soon as they are written, where that is known before the end.
        """

    def keep(self, names: Collection[str]) -> None:
        """Forget all other parameters and their optimizer's state: a server keeps what it owns.

        The model cannot be run afterwards.
        """

    def step(self, gradients: Mapping[str, Float32]) -> None:
        """Let the optimizer apply `gradients`, of all parameters that are kept."""

    def optimizer_state(self) -> Mapping[str, npt.NDArray[Any]]:
        """The optimizer's state, by parameter and key."""

    def load_state(
        self, parameters: Mapping[str, Float32], optimizer: Mapping[str, npt.NDArray[Any]] | None
    ) -> None:
        """Take over the state that another backend of the same run held, bit for bit.

        parameters: of the names and shapes that are kept here. optimizer: what `optimizer_state`
        gave there for these; None leaves the optimizer as it is, where it never steps.
        """

    def evaluate(self) -> tuple[float, float | None]:
        """Mean loss and accuracy on the test data (None where classes have no meaning)."""
