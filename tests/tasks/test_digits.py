from __future__ import annotations

import gzip
import re

import numpy as np
import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DatasetError
from dmlf.tasks import Dataset, describe_dataset, digits, resolve_task
from dmlf.tasks.digits import stratified_test_mask

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return resolve_task(RunConfig(task="digits")).load()


def test_split_is_fixed_for_all_seeds_and_versions(dataset):
    described = describe_dataset("digits", dataset)
    other_seed = resolve_task(RunConfig(task="digits", seed=9)).load()
    assert described == describe_dataset("digits", other_seed)
    assert described["test"]["targets"]["sha256"] == (
        "4a77505b2987c684f34b6c648a9c2cfc1903286b6848ade37d18fb83f1c56a15"
    )
    assert described["train"]["inputs"]["sha256"] == (
        "175cba27f5090b926b6eb63e866830325f88f104ae9abfb05efd4fe58340c073"
    )


def test_every_digit_is_in_exactly_one_split_with_its_own_label(dataset):
    def rows(inputs, targets):
        pixels = np.rint(inputs.reshape(len(inputs), 64) * 16).astype(int)
        return [(*row.tolist(), label) for row, label in zip(pixels, targets.tolist(), strict=True)]

    raw = datasets.load_digits()
    split = rows(dataset.train_inputs, dataset.train_targets)
    split += rows(dataset.test_inputs, dataset.test_targets)
    assert sorted(split) == sorted(rows(raw.data / 16, raw.target))


def test_shapes_range_and_shares(dataset):
    assert dataset.train_inputs.shape == (1438, 1, 8, 8)
    assert dataset.test_inputs.shape == (359, 1, 8, 8)
    assert dataset.train_inputs.dtype == np.float32
    assert (dataset.train_inputs.min(), dataset.train_inputs.max()) == (0.0, 1.0)
    in_test = np.bincount(dataset.test_targets)
    in_all = in_test + np.bincount(dataset.train_targets)
    assert (np.abs(in_test - 0.2 * in_all) <= 0.5).all()


def test_mask_is_not_the_first_samples_of_each_class():
    targets = np.repeat(np.arange(3), 50)
    mask = stratified_test_mask(targets)
    assert [mask[targets == label].sum() for label in range(3)] == [10, 10, 10]
    assert not mask[:10].all()


def test_unknown_option_is_refused():
    with pytest.raises(ConfigError):
        resolve_task(RunConfig(task="digits", task_options={"split": 1}))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"no gzip", "cannot be read"),
        (gzip.compress(b"1,2,3\n4,5\n", mtime=0), "cannot be read"),
        (gzip.compress(b"1,2\n" * 1797, mtime=0)[:-9], "cannot be read"),
        (gzip.compress(b"1,2,3\n", mtime=0), "shape (1, 3)"),
        (gzip.compress(b"17," * 64 + b"1\n", mtime=0), "shape (1, 65)"),
        (gzip.compress((b"17," * 64 + b"1\n") * 1797, mtime=0), "pixels outside 0 to 16"),
    ],
)
def test_other_content_than_the_digits_is_refused(monkeypatch, tmp_path, content, named):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(digits, "require_scikit_learn_file", lambda name: path)
    with pytest.raises(DatasetError, match=re.escape(named)) as caught:
        digits.load_digits_dataset()
    assert str(path) in str(caught.value)
