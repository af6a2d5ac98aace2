"""Task `digits`: the 8x8 handwritten digits that scikit-learn carries, so nothing is downloaded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmlf.config import RunConfig
from dmlf.env import require_sklearn_datasets
from dmlf.errors import DatasetError
from dmlf.tasks.models import classification_task
from dmlf.tasks.registry import register_task
from dmlf.tasks.task import Dataset, TorchTask, refuse_unknown_options

NUM_CLASSES = 10
INPUT_SHAPE = (1, 8, 8)
_LARGEST_PIXEL = 16.0
# The split is part of the task, not of a run: results of different seeds share their test set.
_SPLIT_SEED = 20_240_229
_TEST_SHARE = 0.2


@register_task("digits")
def digits(config: RunConfig) -> TorchTask:
    """1,797 real handwritten digits in 10 classes, 80 % for training."""
    refuse_unknown_options(config)
    return classification_task(
        config, INPUT_SHAPE, NUM_CLASSES, load_digits_dataset, preload=("sklearn.datasets",)
    )


def load_digits_dataset() -> Dataset:
    """Return the digits as float32 [n, 1, 8, 8] in [0, 1] with int64 [n] labels.

    The split is stratified by class, fixed, and independent of every seed of a run.
    Raises DependencyMissing, DatasetError.
    """
    raw = require_sklearn_datasets().load_digits()
    inputs = np.asarray(raw.data, dtype=np.float32).reshape(-1, *INPUT_SHAPE) / _LARGEST_PIXEL
    targets = np.asarray(raw.target, dtype=np.int64)
    if inputs.min() < 0.0 or inputs.max() > 1.0:
        raise DatasetError(
            "digits", "pixels outside 0 to 16", "reinstall scikit-learn, its bundled data differ"
        )
    in_test = stratified_test_mask(targets)
    return Dataset(
        train_inputs=inputs[~in_test],
        train_targets=targets[~in_test],
        test_inputs=inputs[in_test],
        test_targets=targets[in_test],
        num_classes=NUM_CLASSES,
    )


def stratified_test_mask(targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark a fifth of each class, rounded, for the test set: bool [n].

    Samples are ranked by the raw output of a bit generator, the one stream that numpy promises
    never to change, so the split is the same in every version.
    """
    keys = np.random.PCG64(_SPLIT_SEED).random_raw(len(targets))
    in_test = np.zeros(len(targets), dtype=np.bool_)
    for label in np.unique(targets):
        members = np.flatnonzero(targets == label)
        ranked = members[np.argsort(keys[members], kind="stable")]
        in_test[ranked[: round(len(members) * _TEST_SHARE)]] = True
    return in_test
