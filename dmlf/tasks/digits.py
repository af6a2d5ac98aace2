"""Task `digits`: the 8x8 handwritten digits that scikit-learn carries, so nothing is downloaded."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmlf.config import RunConfig
from dmlf.env import require_scikit_learn_file
from dmlf.errors import DatasetError
from dmlf.tasks.models import classification_task
from dmlf.tasks.registry import register_task
from dmlf.tasks.task import Dataset, TorchTask, refuse_unknown_options

NUM_CLASSES = 10
INPUT_SHAPE = (1, 8, 8)
_FILE = "sklearn/datasets/data/digits.csv.gz"
_NUM_SAMPLES = 1797
_LARGEST_PIXEL = 16
_REMEDY = "reinstall scikit-learn, its bundled data differ"
# The split is part of the task, not of a run: results of different seeds share their test set.
_SPLIT_SEED = 20_240_229
_TEST_SHARE = 0.2


@register_task("digits")
def digits(config: RunConfig) -> TorchTask:
    """1,797 real handwritten digits in 10 classes, 80 % for training."""
    refuse_unknown_options(config)
    return classification_task(config, INPUT_SHAPE, NUM_CLASSES, load_digits_dataset)


def load_digits_dataset() -> Dataset:
    """Return the digits as float32 [n, 1, 8, 8] in [0, 1] with int64 [n] labels.

    The split is stratified by class, fixed, and independent of every seed of a run.
    Raises DependencyMissing, DatasetError.
    """
    rows = _read(require_scikit_learn_file(_FILE))
    inputs = rows[:, :-1].astype(np.float32).reshape(-1, *INPUT_SHAPE) / np.float32(_LARGEST_PIXEL)
    targets = rows[:, -1].astype(np.int64)
    in_test = stratified_test_mask(targets)
    return Dataset(
        train_inputs=inputs[~in_test],
        train_targets=targets[~in_test],
        test_inputs=inputs[in_test],
        test_targets=targets[in_test],
        num_classes=NUM_CLASSES,
    )


def _read(path: Path) -> NDArray[np.int64]:
    """The 64 pixels and the label of every digit, one per row."""
    with gzip.open(path, "rt", encoding="ascii") as lines:
        try:
            rows = np.loadtxt(lines, delimiter=",", dtype=np.int64, ndmin=2)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise DatasetError("digits", f"{path} cannot be read: {error}", _REMEDY) from error
    # Whatever else might be wrong with the content shows in the hashes that every run records.
    if rows.shape != (_NUM_SAMPLES, prod(INPUT_SHAPE) + 1):
        raise DatasetError("digits", f"{path} holds a table of shape {rows.shape}", _REMEDY)
    if rows[:, :-1].min() < 0 or rows[:, :-1].max() > _LARGEST_PIXEL:
        raise DatasetError("digits", f"{path} holds pixels outside 0 to 16", _REMEDY)
    return rows


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
