"""What a task is: a data set, and a model with its loss in torch or in plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DatasetError

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dataset:
    """Training and test samples, in memory, checked on construction.

    Inputs are float32 [n, ...] with the same sample shape in both splits. Targets are int64 [n]
    from 0 to num_classes - 1, or, where `num_classes` is None (regression), float32 [n, k].
    Both splits hold at least one sample, and every number is finite. Raises DatasetError.
    """

    train_inputs: Array
    train_targets: Array
    test_inputs: Array
    test_targets: Array
    num_classes: int | None

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            inputs_name, targets_name = f"{split}_inputs", f"{split}_targets"
            inputs, targets = getattr(self, inputs_name), getattr(self, targets_name)
            _check_floats(inputs_name, inputs, min_dimensions=1)
            if self.num_classes is None:
                _check_floats(targets_name, targets, min_dimensions=2)
            else:
                _check_classes(targets_name, targets, self.num_classes)
            if len(targets) != len(inputs):
                raise DatasetError(
                    targets_name,
                    f"{len(targets)} targets for {len(inputs)} inputs",
                    "give one target for each input",
                )
        _check_same_sample("inputs", self.train_inputs, self.test_inputs)
        _check_same_sample("targets", self.train_targets, self.test_targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchTask:
    """A torch model with its data and loss.

    load: returns the data; the same bits on every call and in every process.
    build: returns a new model on the CPU, its parameters drawn from torch's global generator,
        which the trainer seeds just before.
    loss: (outputs, targets) -> scalar, summed (not averaged) over the samples.
    preload: modules beside torch that every rank needs; they are imported once for all of them.
    """

    name: str
    load: Callable[[], Dataset]
    build: Callable[[], torch.nn.Module]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    preload: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NumpyTask:
    """A model in plain numpy that gives its own gradients; needs no torch.

    load: as in TorchTask.
    initial_parameters: name -> float32 array, the same bits on every call.
    loss_and_gradients: (parameters, inputs, targets) -> (loss, name -> float32 gradient of the
        parameter's shape), both summed (not averaged) over the samples.
    """

    name: str
    load: Callable[[], Dataset]
    initial_parameters: Callable[[], dict[str, FloatArray]]
    loss_and_gradients: Callable[
        [Mapping[str, FloatArray], FloatArray, FloatArray], tuple[float, dict[str, FloatArray]]
    ]


def refuse_unknown_options(config: RunConfig, known: Sequence[str] = ()) -> None:
    """Check that `config.task_options` holds only keys that the task knows. Raises ConfigError."""
    for key, value in config.task_options.items():
        if key not in known:
            options = f"one of {', '.join(known)}" if known else "no options"
            raise ConfigError(f"task_options.{key}", value, f"{options} for task {config.task}")


def _check_floats(name: str, values: Array, min_dimensions: int) -> None:
    _check_array(name, values, np.dtype(np.float32), min_dimensions)
    if not np.isfinite(values).all():
        raise DatasetError(name, "holds NaN or infinity", "remove or repair those samples")


def _check_classes(name: str, targets: Array, num_classes: int) -> None:
    _check_array(name, targets, np.dtype(np.int64), min_dimensions=1)
    if targets.ndim != 1:
        raise DatasetError(name, f"shape {targets.shape}", "give one class number for each sample")
    outside = np.flatnonzero((targets < 0) | (targets >= num_classes))
    if outside.size:
        raise DatasetError(
            name,
            f"label {targets[outside[0]]} of sample {outside[0]} is outside the classes 0 to "
            f"{num_classes - 1}",
            "correct the labels or num_classes",
        )


def _check_array(name: str, values: Array, dtype: np.dtype[Any], min_dimensions: int) -> None:
    if not isinstance(values, np.ndarray) or values.dtype != dtype:
        found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise DatasetError(name, f"{found} where a {dtype} array belongs", f"convert it to {dtype}")
    if values.ndim < min_dimensions:
        raise DatasetError(
            name,
            f"shape {values.shape} has {values.ndim} dimensions",
            f"give at least {min_dimensions}, the first of which counts the samples",
        )
    if values.size == 0:
        raise DatasetError(name, f"shape {values.shape} is empty", "give at least one sample")


def _check_same_sample(kind: str, train: Array, test: Array) -> None:
    if train.shape[1:] != test.shape[1:]:
        raise DatasetError(
            f"test_{kind}",
            f"samples of shape {test.shape[1:]}, while train_{kind} has {train.shape[1:]}",
            "give both splits the same sample shape",
        )
