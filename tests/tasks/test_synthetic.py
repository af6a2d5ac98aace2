from __future__ import annotations

import numpy as np
import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError
from dmlf.tasks import NumpyTask, describe_dataset, resolve_task


def make(seed: int = 0, **options: int) -> NumpyTask:
    task = resolve_task(RunConfig(task="synthetic", seed=seed, task_options=options))
    assert isinstance(task, NumpyTask)
    return task


def test_data_are_the_same_in_every_version_and_for_every_seed():
    described = describe_dataset("synthetic", make(parameter_dim=3, num_samples=8).load())
    assert described == describe_dataset(
        "synthetic", make(seed=5, parameter_dim=3, num_samples=8).load()
    )
    assert described["train"]["inputs"]["shape"] == [8, 3]
    assert described["test"]["targets"]["shape"] == [2, 1]
    assert described["train"]["inputs"]["sha256"] == (
        "32ebf9dc0d0a50c77e810a489efec23502e66c66e1adf3d913286262c35fe602"
    )
    assert described["train"]["targets"]["sha256"] == (
        "62f88a02a0fe60723668c3477944540fa3ffe8b4809ae81d6afeb5fd4148c521"
    )


def test_initial_parameters_follow_the_seed_and_are_never_shared():
    first = make(seed=1).initial_parameters()
    again = make(seed=1).initial_parameters()
    other = make(seed=2).initial_parameters()
    assert {name: value.shape for name, value in first.items()} == {"weight": (40,), "bias": (1,)}
    assert all(value.dtype == np.float32 for value in first.values())
    np.testing.assert_array_equal(first["weight"], again["weight"])
    assert (first["weight"] != other["weight"]).any()
    assert not np.shares_memory(first["weight"], again["weight"])


def test_gradients_are_the_slope_of_the_loss():
    task = make(parameter_dim=5, num_samples=12)
    dataset, parameters = task.load(), task.initial_parameters()
    batch = dataset.train_inputs, dataset.train_targets
    _, gradients = task.loss_and_gradients(parameters, *batch)
    step = 2.0**-7
    for name, value in parameters.items():
        assert gradients[name].dtype == np.float32
        assert gradients[name].shape == value.shape
        for index in range(len(value)):
            losses = []
            for sign in (1, -1):
                moved = {key: item.copy() for key, item in parameters.items()}
                moved[name][index] += sign * step
                losses.append(task.loss_and_gradients(moved, *batch)[0])
            slope = (losses[0] - losses[1]) / (2 * step)
            assert gradients[name][index] == pytest.approx(slope, rel=1e-4, abs=1e-4)


def test_loss_and_gradients_are_summed_over_samples():
    task = make(parameter_dim=4, num_samples=10)
    dataset, parameters = task.load(), task.initial_parameters()
    inputs, targets = dataset.train_inputs, dataset.train_targets
    whole_loss, whole = task.loss_and_gradients(parameters, inputs, targets)
    parts = [
        task.loss_and_gradients(parameters, inputs[part], targets[part])
        for part in (slice(0, 3), slice(3, 10))
    ]
    assert whole_loss == pytest.approx(sum(loss for loss, _ in parts))
    for name, gradient in whole.items():
        np.testing.assert_allclose(gradient, sum(part[name] for _, part in parts), rtol=1e-5)


def test_gradient_descent_reaches_the_noise():
    task = make()
    dataset, parameters = task.load(), task.initial_parameters()
    count = len(dataset.train_inputs)
    for _ in range(100):
        _, gradients = task.loss_and_gradients(
            parameters, dataset.train_inputs, dataset.train_targets
        )
        for name, gradient in gradients.items():
            parameters[name] -= np.float32(1.0 / count) * gradient
    loss, _ = task.loss_and_gradients(parameters, dataset.test_inputs, dataset.test_targets)
    # Uniform noise in [-0.01, 0.01) has the variance 0.01^2 / 3.
    assert loss / len(dataset.test_inputs) == pytest.approx(0.5 * 0.01**2 / 3, rel=0.15)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"parameter_dim": 0}, "parameter_dim"),
        ({"parameter_dim": 1.5}, "parameter_dim"),
        ({"num_samples": -1}, "num_samples"),
        ({"num_samples": "many"}, "num_samples"),
        ({"num_samples": 10**9}, "num_samples"),
        ({"colour": 1}, "colour"),
    ],
)
def test_bad_options_are_refused_by_key(options, key):
    with pytest.raises(ConfigError) as caught:
        make(**options)
    assert caught.value.key == f"task_options.{key}"


def test_one_parameter_and_one_sample():
    dataset = make(parameter_dim=1, num_samples=1).load()
    assert dataset.train_inputs.shape == dataset.test_inputs.shape == (1, 1)
