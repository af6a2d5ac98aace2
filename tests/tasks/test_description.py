from __future__ import annotations

import hashlib
import json

import numpy as np

from dmlf.tasks import Dataset, describe_dataset


def test_description_is_plain_json_with_counts_and_hashes():
    inputs = np.arange(12, dtype=np.float32).reshape(4, 3)
    # A view that is not contiguous holds the same values, so it has the same description.
    strided = np.asfortranarray(inputs)
    targets = np.array([0, 2, 2, 0])
    described = [
        describe_dataset(
            "mine",
            Dataset(
                train_inputs=values,
                train_targets=targets,
                test_inputs=values[:1],
                test_targets=targets[:1],
                num_classes=4,
            ),
        )
        for values in (inputs, strided)
    ]
    assert described[0] == described[1]
    plain = json.loads(json.dumps(described[0], allow_nan=False))
    assert plain["train"] == {
        "samples": 4,
        "samples_per_class": [2, 0, 2, 0],
        "inputs": {
            "shape": [4, 3],
            "dtype": "float32",
            "minimum": 0.0,
            "maximum": 11.0,
            "sha256": hashlib.sha256(inputs.astype("<f4").tobytes()).hexdigest(),
        },
        "targets": {
            "shape": [4],
            "dtype": "int64",
            "minimum": 0,
            "maximum": 2,
            "sha256": hashlib.sha256(targets.astype("<i8").tobytes()).hexdigest(),
        },
    }
    assert plain["test"]["samples"] == 1
