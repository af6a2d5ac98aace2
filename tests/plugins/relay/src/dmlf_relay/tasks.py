"""Task `relay_means`: the mean of points in the plane, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmlf import Dataset, NumpyTask, RunConfig, register_task

START = 1.0


def _points() -> Dataset:
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


def _loss(parameters: Any, inputs: Any, targets: Any) -> tuple[float, dict[str, Any]]:
    errors = parameters["mean"] - targets
    return float((errors**2).sum()), {"mean": (2.0 * errors.sum(axis=0)).astype(np.float32)}


@register_task("relay_means")
def relay_means(config: RunConfig) -> NumpyTask:
    """48 points to train with, 16 to test."""
    return NumpyTask(
        name="relay_means",
        load=_points,
        initial_parameters=lambda: {"mean": np.full(2, START, np.float32)},
        loss_and_gradients=_loss,
    )
