"""Tasks of a user, named as `tests.training.own_task:function`."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

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


def slow_means(config: RunConfig) -> NumpyTask:
    """As `two_means`, to the bit, but slow while the file of the option `slow` exists."""

    def slow_loss(parameters, inputs, targets):
        if Path(str(config.task_options["slow"])).exists():
            threading.Event().wait(0.3)
        return _mean_loss(parameters, inputs, targets)

    return NumpyTask(
        name="slow_means",
        load=_data,
        initial_parameters=lambda: {"mean": np.ones(2, np.float32)},
        loss_and_gradients=slow_loss,
    )


def counts_descriptors(config: RunConfig) -> NumpyTask:
    """As `two_means`; the processes write how many descriptors they have, in each step."""

    def counting_loss(parameters, inputs, targets):
        with Path(str(config.task_options["folder"]), str(os.getpid())).open("a") as file:
            file.write(f"{len(os.listdir('/proc/self/fd'))}\n")
        return _mean_loss(parameters, inputs, targets)

    return NumpyTask(
        name="counts_descriptors",
        load=_data,
        initial_parameters=lambda: {"mean": np.ones(2, np.float32)},
        loss_and_gradients=counting_loss,
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


def _another_value():
    return {"mean": np.full(2, os.getpid(), np.float32)}


def _another_shape():
    return {"mean": np.ones(2 + os.getpid() % 1000, np.float32)}


def _another_name():
    return {f"mean{os.getpid()}": np.ones(2, np.float32)}


def _another_order():
    names = list("abcdefgh")
    random.Random(os.getpid()).shuffle(names)
    return {name: np.ones(2, np.float32) for name in names}


def differs_by_process(config: RunConfig) -> NumpyTask:
    """Ranks that do not have the same model, in what `task_options` says."""
    what = {
        "value": _another_value,
        "shape": _another_shape,
        "name": _another_name,
        "order": _another_order,
    }
    return NumpyTask(
        name="differs_by_process",
        load=_data,
        initial_parameters=what[str(config.task_options["what"])],
        loss_and_gradients=_mean_loss,
    )
