"""Task `synthetic`: a deterministic linear regression in plain numpy, without torch.

Targets are a fixed linear function of the inputs plus small noise, so the loss of a correct
trainer falls to the noise and no further.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dmlf.config import RunConfig
from dmlf.errors import ConfigError
from dmlf.tasks.registry import register_task
from dmlf.tasks.task import Dataset, FloatArray, NumpyTask, refuse_unknown_options

_DATA_SEED = 7
_NOISE = 0.01
_TEST_SHARE = 4  # one test sample for every four training samples
_MAX_NUMEL = 1 << 26  # of the training inputs: 256 MiB


@register_task("synthetic")
def synthetic(config: RunConfig) -> NumpyTask:
    """Linear regression; options `parameter_dim` (default 40) and `num_samples` (default 4096).

    The model is `weight` [parameter_dim] and `bias` [1]. The data depend on the options alone,
    the initial parameters on `config.seed`. Raises ConfigError.
    """
    refuse_unknown_options(config, ("parameter_dim", "num_samples"))
    parameter_dim = _positive_option(config, "parameter_dim", 40)
    num_samples = _positive_option(config, "num_samples", 4096)
    if parameter_dim * num_samples > _MAX_NUMEL:
        raise ConfigError(
            "task_options.num_samples",
            num_samples,
            f"parameter_dim x num_samples of at most {_MAX_NUMEL}",
        )
    return NumpyTask(
        name=config.task,
        load=lambda: _make_dataset(parameter_dim, num_samples),
        initial_parameters=lambda: _initial_parameters(config.seed, parameter_dim),
        loss_and_gradients=half_squared_error,
    )


def half_squared_error(
    parameters: Mapping[str, FloatArray], inputs: FloatArray, targets: FloatArray
) -> tuple[float, dict[str, FloatArray]]:
    """Return half the squared error and its gradients, both summed over the n samples.

    parameters: `weight` float32 [k], `bias` float32 [1]. inputs: [n, k]. targets: [n, 1].
    """
    # numpy's own sums, not matrix products: a BLAS adds in an order that depends on its threads.
    wide_inputs = inputs.astype(np.float64)
    outputs = (wide_inputs * parameters["weight"]).sum(axis=1) + parameters["bias"][0]
    errors = outputs - targets[:, 0]
    gradients = {
        "weight": (errors[:, None] * wide_inputs).sum(axis=0).astype(np.float32),
        "bias": np.array([errors.sum()], dtype=np.float32),
    }
    return float(0.5 * (errors * errors).sum()), gradients


def _make_dataset(parameter_dim: int, num_samples: int) -> Dataset:
    num_test = max(1, num_samples // _TEST_SHARE)
    total = num_samples + num_test
    stream = np.random.PCG64(_DATA_SEED)
    true_weight = _uniform(stream, parameter_dim)
    true_bias = _uniform(stream, 1)
    inputs = _uniform(stream, total * parameter_dim).reshape(total, parameter_dim)
    noise = _NOISE * _uniform(stream, total)
    targets = (inputs * true_weight).sum(axis=1) + true_bias + noise
    rounded_inputs, rounded_targets = inputs.astype(np.float32), targets.astype(np.float32)[:, None]
    return Dataset(
        train_inputs=rounded_inputs[:num_samples],
        train_targets=rounded_targets[:num_samples],
        test_inputs=rounded_inputs[num_samples:],
        test_targets=rounded_targets[num_samples:],
        num_classes=None,
    )


def _initial_parameters(seed: int, parameter_dim: int) -> dict[str, FloatArray]:
    stream = np.random.PCG64([_DATA_SEED, seed])
    return {
        "weight": (0.1 * _uniform(stream, parameter_dim)).astype(np.float32),
        "bias": np.zeros(1, dtype=np.float32),
    }


def _uniform(stream: np.random.PCG64, count: int) -> NDArray[np.float64]:
    """Draw float64 [count] in [-1, 1) from raw bits: numpy never changes that stream."""
    mantissas = (stream.random_raw(count) >> np.uint64(11)).astype(np.float64)
    return mantissas * 2.0**-52 - 1.0


def _positive_option(config: RunConfig, key: str, default: int) -> int:
    value = config.task_options.get(key, default)
    if isinstance(value, int) and value >= 1:
        return value
    raise ConfigError(f"task_options.{key}", value, "an integer of at least 1")
