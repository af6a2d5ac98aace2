"""Tasks of a user, named as `tests.training.own_task:function`."""

from __future__ import annotations

import os
import signal

import numpy as np

from dmlf import Dataset, NumpyTask, RunConfig


def _data() -> Dataset:
    generator = np.random.default_rng(5)
    inputs = generator.standard_normal((64, 3)).astype(np.float32)
    targets = inputs[:, :2] * np.float32(2.0)
    return Dataset(
        train_inputs=inputs[:48],
        train_targets=targets[:48],
        test_inputs=inputs[48:],
        test_targets=targets[48:],
        num_classes=None,
    )


def _mean_loss(parameters, inputs, targets):
    errors = parameters["mean"] - targets
    return float((errors**2).sum()), {"mean": (2.0 * errors.sum(axis=0)).astype(np.float32)}


def _broken_loss(parameters, inputs, targets):
    raise ValueError("planted in user code")


def two_means(config: RunConfig) -> NumpyTask:
    return NumpyTask(
        name="two_means",
        load=_data,
        initial_parameters=lambda: {"mean": np.ones(2, np.float32)},
        loss_and_gradients=_mean_loss,
    )


def broken_loss(config: RunConfig) -> NumpyTask:
    return NumpyTask(
        name="broken_loss",
        load=_data,
        initial_parameters=lambda: {"mean": np.ones(2, np.float32)},
        loss_and_gradients=_broken_loss,
    )


def leaves(config: RunConfig) -> NumpyTask:
    raise SystemExit(0)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at_start(config: RunConfig) -> NumpyTask:
    return NumpyTask(
        name="dies_at_start", load=_data, initial_parameters=_die, loss_and_gradients=_mean_loss
    )
