"""The communication hook inside torch's own DistributedDataParallel."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import dmlf
from dmlf.errors import ConfigError
from tests.torch import hook_programs as programs
from tests.torch import training


@pytest.mark.parametrize(
    ("reduction", "algorithm"), [("float32", "ring"), ("float32", "tree"), ("exact", "ring")]
)
def test_rebuilt_buckets_change_no_bit(reduction: str, algorithm: str) -> None:
    results = dmlf.launch(programs.hooked, 3, (reduction, algorithm))
    for (stock, fixed, rebuilt), (_, buckets_fixed, buckets_rebuilt) in results:
        assert training.digest(fixed) == training.digest(rebuilt)
        for name in stock:
            np.testing.assert_allclose(rebuilt[name], stock[name], rtol=0, atol=1e-6)
        assert buckets_rebuilt[0] != buckets_rebuilt[-1]  # they were rebuilt
        assert set(buckets_fixed).isdisjoint(buckets_rebuilt[1:])
    assert len({training.digest(states[2]) for states, _ in results}) == 1


def test_the_documented_line_takes_several_dtypes() -> None:
    states = dmlf.launch(programs.hooked_directly, 2)
    assert training.digest(states[0]) == training.digest(states[1])


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("nan", "NonFiniteGradient"),
        ("mismatch", "CollectiveMismatch"),
        ("closed", "GroupClosed"),
        ("sparse", "ConfigError"),
    ],
)
def test_errors_are_raised_by_backward(kind: str, error: str) -> None:
    assert dmlf.launch(programs.hooked_with_errors, 2, (kind,)) == [error] * 2


def test_bad_options_are_named() -> None:
    with pytest.raises(ConfigError, match="reduction"):
        dmlf.CommHookState(reduction="int8")
