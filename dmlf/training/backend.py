"""The seam between training and the library that computes gradients (torch, or numpy alone)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
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

    def step(self, gradients: Mapping[str, Float32]) -> None:
        """Let the optimizer apply `gradients`."""

    def optimizer_state(self) -> Mapping[str, npt.NDArray[Any]]:
        """The optimizer's state, by parameter and key."""

    def evaluate(self) -> tuple[float, float | None]:
        """Mean loss and accuracy on the test data (None where classes have no meaning)."""


def state_sha256(*parts: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of named arrays, sorted by name."""
    digest = hashlib.sha256()
    for part in parts:
        for name, array in sorted(part.items()):
            digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
