"""Tensors become buckets as in training; whatever a user may get wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.projection.model import (
    Tensor,
    even_tensors,
    make_workload,
    mlp_tensors,
    num_parameters,
    read_tensors,
)
from dmlf.errors import ConfigError
from dmlf.simulation.timed import Workload
from dmlf.tasks.models import build_model
from dmlf.training.layout import make_buckets


def workload(tensors: list[Tensor], compute_s: float = 1.0, cap_bytes: int = 80) -> Workload:
    return make_workload(
        tensors, compute_s=compute_s, cap_bytes=cap_bytes, overlap=True, exact=False
    )


def test_an_mlp_has_the_buckets_that_training_gives_it() -> None:
    model = build_model("mlp", (30, 20), (64,), 10)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    trained = [bucket.numel for bucket in make_buckets(shapes, 4000)]
    ours = workload(mlp_tensors([64, 30, 20, 10]), cap_bytes=4000)
    assert [bucket.numel for bucket in ours.buckets] == trained


def test_parameters_alone_fill_buckets_evenly() -> None:
    ours = workload(even_tensors(103, 80), cap_bytes=80)
    assert num_parameters(ours.buckets) == 103
    assert [bucket.numel for bucket in ours.buckets] == [17, 17, 17, 17, 17, 18]
    assert ours.ready_s[-1] == 1.0
    assert ours.ready_s[0] == pytest.approx(1 / 3 + 2 / 3 * 17 / 103)


def test_backward_times_say_when_buckets_are_ready(tmp_path: Path) -> None:
    path = tmp_path / "tensors.json"
    path.write_text(
        json.dumps(
            [
                {"name": "first", "shape": [5, 4], "backward_s": 0.5},
                {"name": "second", "numel": 10, "backward_s": 0.25},
                {"name": "third", "numel": 10, "backward_s": 0.125},
            ]
        )
    )
    ours = workload(read_tensors(path), compute_s=2.0)
    assert [bucket.numel for bucket in ours.buckets] == [20, 20]  # third and second, then first
    assert ours.ready_s == (2.0 - 0.875 + 0.375, 2.0)
    with pytest.raises(ConfigError) as caught:
        workload(read_tensors(path), compute_s=0.8)
    assert caught.value.key == "compute_s"


def test_the_exact_reduction_sends_more() -> None:
    ours = make_workload(
        mlp_tensors([3, 2]), compute_s=1.0, cap_bytes=1 << 20, overlap=False, exact=True
    )
    assert (ours.buckets[0].partial_itemsize, ours.buckets[0].scale_bytes) == (8, 4)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "[3]",
        '[{"numel": 0}]',
        '[{"numel": 2.5}]',
        '[{"numel": true}]',
        '[{"numel": 4, "shape": [4]}]',
        '[{"name": "a"}]',
        '[{"numel": 4, "colour": "red"}]',
        '[{"numel": 4, "name": 3}]',
        '[{"numel": 4, "backward_s": -1}]',
        '[{"numel": 4, "backward_s": "1"}]',
        '[{"numel": 4, "backward_s": 1}, {"numel": 4}]',
        '[{"name": "a", "numel": 4}, {"name": "a", "numel": 4}]',
        '[{"shape": [1000000000, 1000000000]}]',
        '[{"numel": NaN}]',
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tensors.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_tensors(path)
    assert caught.value.key.startswith("tensors")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json"):
        read_tensors(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "make",
    [
        lambda: even_tensors(0, 80),
        lambda: even_tensors(10**14, 80),
        lambda: even_tensors(10**9, 80),
        lambda: workload([Tensor("a", 4)], compute_s=float("nan")),
        lambda: workload([Tensor("a", 4)], compute_s=-1.0),
        lambda: workload([Tensor(str(index), 20) for index in range(10_001)]),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
