from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DatasetError
from dmlf.tasks import Dataset, refuse_unknown_options


def arrays() -> dict[str, object]:
    return {
        "train_inputs": np.arange(12, dtype=np.float32).reshape(4, 3),
        "train_targets": np.array([0, 1, 2, 0]),
        "test_inputs": np.ones((2, 3), dtype=np.float32),
        "test_targets": np.array([2, 1]),
        "num_classes": 3,
    }


def test_accepts_classification_and_regression():
    Dataset(**arrays())
    regression = arrays() | {
        "train_targets": np.ones((4, 2), dtype=np.float32),
        "test_targets": np.ones((2, 2), dtype=np.float32),
        "num_classes": None,
    }
    Dataset(**regression)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_inputs", np.zeros((4, 3))),
        ("train_inputs", [[0.0] * 3] * 4),
        ("train_inputs", np.full((4, 3), np.nan, dtype=np.float32)),
        ("train_inputs", np.full((4, 3), np.inf, dtype=np.float32)),
        ("test_inputs", np.zeros((0, 3), dtype=np.float32)),
        ("test_inputs", np.float32(1.0) * np.ones(())),
        ("test_inputs", np.zeros((2, 4), dtype=np.float32)),
        ("train_targets", np.array([0, 1, 2, 3])),
        ("train_targets", np.array([0, 1, -1, 0])),
        ("train_targets", np.array([0, 1, 2])),
        ("train_targets", np.array([0.0, 1.0, 2.0, 0.0])),
        ("train_targets", np.zeros((4, 1), dtype=np.int64)),
        ("test_targets", np.array([0, 1], dtype=np.int32)),
    ],
)
def test_refuses_by_name(name, value):
    with pytest.raises(DatasetError) as caught:
        Dataset(**(arrays() | {name: value}))
    assert caught.value.path == name


def test_refuses_regression_targets_without_a_second_dimension():
    values = arrays() | {"train_targets": np.ones(4, dtype=np.float32), "num_classes": None}
    with pytest.raises(DatasetError) as caught:
        Dataset(**values)
    assert caught.value.path == "train_targets"


def test_unknown_options_are_refused_by_key():
    config = RunConfig(task_options={"known": 1, "unknown": 2})
    with pytest.raises(ConfigError) as caught:
        refuse_unknown_options(config, ("known",))
    assert caught.value.key == "task_options.unknown"
    refuse_unknown_options(config, ("known", "unknown"))


def test_importing_tasks_loads_no_optional_package():
    code = (
        "import sys, dmlf.tasks, dmlf.tasks.images, dmlf.tasks.digits, dmlf.tasks.synthetic;"
        "print([name for name in ('torch', 'torchvision', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
