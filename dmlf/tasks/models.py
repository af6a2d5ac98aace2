"""The shipped models, and the task that joins one to labelled data.

Parameters come from torch's global generator in the order in which the layers are made, so a
seed set just before gives the same bits every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING

from dmlf.config import RunConfig
from dmlf.env import require_torch
from dmlf.errors import ConfigError
from dmlf.tasks.task import Dataset, TorchTask

if TYPE_CHECKING:
    import torch

_CNN_CHANNELS = (16, 32)


def classification_task(
    config: RunConfig,
    input_shape: tuple[int, ...],
    num_classes: int,
    load: Callable[[], Dataset],
) -> TorchTask:
    """Return a task with `config.model` and the cross-entropy summed over samples.

    input_shape: of one sample, without the batch dimension; outputs are [n, num_classes] logits.
    """
    return TorchTask(
        name=config.task,
        load=load,
        build=lambda: build_model(config.model, config.hidden_sizes, input_shape, num_classes),
        loss=summed_cross_entropy,
    )


def build_model(
    model: str, hidden_sizes: Sequence[int], input_shape: tuple[int, ...], num_classes: int
) -> torch.nn.Module:
    """Build `mlp` or `cnn` for samples of `input_shape`, with [n, num_classes] outputs.

    mlp: flatten, then a linear layer and ReLU for each hidden size, then a linear layer.
    cnn: two blocks of convolution 3x3 (16, 32 channels), ReLU and 2x2 maximum pooling, then the
    same layers as in mlp. Needs [channels, height, width] of at least 4x4: 28x28 images and the
    8x8 digits both fit.
    Raises ConfigError, DependencyMissing.
    """
    nn = require_torch().nn
    layers: list[torch.nn.Module] = []
    width = prod(input_shape)
    if model == "cnn":
        if len(input_shape) != 3 or min(input_shape[1:]) < 4:
            raise ConfigError("model", model, f"'mlp' for samples of shape {list(input_shape)}")
        channels, height, image_width = input_shape
        for out_channels in _CNN_CHANNELS:
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, image_width = out_channels, height // 2, image_width // 2
        width = channels * height * image_width
    layers.append(nn.Flatten())
    for size in hidden_sizes:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    layers.append(nn.Linear(width, num_classes))
    sequential: torch.nn.Module = nn.Sequential(*layers)
    return sequential


def summed_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of [n, classes] logits with int64 [n] classes, summed over the n samples."""
    loss: torch.Tensor = require_torch().nn.functional.cross_entropy(
        outputs, targets, reduction="sum"
    )
    return loss
