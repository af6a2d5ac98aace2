"""A data set in plain values, for `dmlf data` and for a reader who asks what was trained on."""

from __future__ import annotations

import hashlib

import numpy as np

from dmlf.tasks.task import Array, Dataset


def describe_dataset(name: str, dataset: Dataset) -> dict[str, object]:
    """Return counts, shapes, ranges and SHA-256 of the arrays, JSON-ready.

    The SHA-256 is taken of each array's bytes in C order, little-endian.
    """
    return {
        "task": name,
        "num_classes": dataset.num_classes,
        "train": _describe_split(dataset.train_inputs, dataset.train_targets, dataset.num_classes),
        "test": _describe_split(dataset.test_inputs, dataset.test_targets, dataset.num_classes),
    }


def _describe_split(inputs: Array, targets: Array, num_classes: int | None) -> dict[str, object]:
    description: dict[str, object] = {
        "samples": len(inputs),
        "inputs": _describe_array(inputs),
        "targets": _describe_array(targets),
    }
    if num_classes is not None:
        description["samples_per_class"] = np.bincount(targets, minlength=num_classes).tolist()
    return description


def _describe_array(values: Array) -> dict[str, object]:
    little_endian = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return {
        "shape": list(values.shape),
        "dtype": values.dtype.name,
        "minimum": values.min().item(),
        "maximum": values.max().item(),
        "sha256": hashlib.sha256(little_endian.reshape(-1).view(np.uint8).data).hexdigest(),
    }
