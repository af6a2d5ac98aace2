from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from dmlf.config import RunConfig
from dmlf.errors import ConfigError, DatasetError
from dmlf.tasks import TorchTask, describe_dataset, resolve_task
from dmlf.tasks.images import KMNIST, MNIST, ImageFiles, load_images
from dmlf.tasks.task import Dataset

FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


def load(task: str, data_dir) -> Dataset:
    resolved = resolve_task(RunConfig(task=task, data_dir=str(data_dir)))
    assert isinstance(resolved, TorchTask)
    assert resolved.name == task
    return resolved.load()


def test_real_mnist_files_are_accepted(mnist_data_dir):
    dataset = load("mnist", mnist_data_dir)
    assert dataset.train_inputs.shape == (60_000, 1, 28, 28)
    assert dataset.test_inputs.shape == (10_000, 1, 28, 28)
    assert dataset.train_inputs.dtype == np.float32
    assert (dataset.train_inputs.min(), dataset.train_inputs.max()) == (0.0, 1.0)
    # The first labels of the training set, as every description of MNIST shows them.
    assert dataset.train_targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    described = describe_dataset("mnist", dataset)
    assert described["test"]["samples_per_class"][0] == 980


@pytest.mark.parametrize("name", sorted(MNIST.sha256))
def test_one_changed_byte_in_a_real_file_is_a_wrong_checksum(mnist_data_dir, tmp_path, name):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for other in MNIST.sha256:
        (folder / other).symlink_to(mnist_data_dir / "MNIST" / "raw" / other)
    content = bytearray((folder / name).read_bytes())
    content[-1] = (content[-1] + 1) % 10
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(DatasetError, match="SHA-256") as caught:
        load("mnist", tmp_path)
    assert caught.value.path == str(folder / name)


@pytest.mark.parametrize("task", ["fashion_mnist", "kmnist"])
def test_present_files_are_read_without_torchvision(tmp_path, write_image_files, monkeypatch, task):
    folder = tmp_path / FOLDERS[task] / "raw"
    write_image_files(folder)
    monkeypatch.setattr(
        "dmlf.tasks.download.require_torchvision", lambda: pytest.fail("torchvision was asked for")
    )
    dataset = load(task, tmp_path)
    assert dataset.num_classes == 10
    assert dataset.train_inputs.shape == (20, 1, 28, 28)
    assert dataset.test_targets.tolist() == [0, 3, 6, 9, 2, 5, 8, 1, 4, 7]
    pixels = (np.arange(28) + 28).astype(np.float32) * 7 % 256
    np.testing.assert_array_equal(dataset.train_inputs[0, 0, 1], pixels / np.float32(255))


@pytest.fixture
def kmnist_folder(tmp_path, write_image_files):
    folder = tmp_path / "KMNIST" / "raw"
    write_image_files(folder)
    return folder


def refused(folder) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load_images(KMNIST, folder.parent.parent)
    assert "\n" not in str(caught.value)
    return caught.value


def test_label_outside_the_classes(kmnist_folder, idx_bytes):
    path = kmnist_folder / "train-labels-idx1-ubyte"
    labels = np.arange(20) % 10
    labels[13] = 10
    path.write_bytes(idx_bytes(labels))
    error = refused(kmnist_folder)
    assert error.path == str(path)
    assert "label 10 of sample 13" in error.problem


@pytest.mark.parametrize("count", [9, 11])
def test_counts_of_images_and_labels_differ(kmnist_folder, idx_bytes, count):
    path = kmnist_folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.arange(count) % 10))
    error = refused(kmnist_folder)
    assert error.path == str(path)
    assert f"{count} labels for the 10 images" in error.problem


def test_images_of_another_size(kmnist_folder, idx_bytes):
    path = kmnist_folder / "train-images-idx3-ubyte"
    path.write_bytes(idx_bytes(np.zeros((20, 28, 27))))
    assert refused(kmnist_folder).path == str(path)


def test_images_and_labels_swapped(kmnist_folder):
    images, labels = (
        kmnist_folder / f"train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")
    )
    content = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(content)
    assert refused(kmnist_folder).path == str(images)


def test_truncated_file_is_named_before_its_checksum(kmnist_folder):
    path = kmnist_folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    files = replace(KMNIST, sha256={path.name: "0" * 64})
    with pytest.raises(DatasetError, match="truncated"):
        load_images(files, kmnist_folder.parent.parent)


def test_fifo_in_a_files_place_is_refused_at_once(kmnist_folder):
    path = kmnist_folder / "t10k-images-idx3-ubyte"
    path.unlink()
    os.mkfifo(path)
    assert refused(kmnist_folder).path == str(path)


def test_unknown_option_is_refused():
    with pytest.raises(ConfigError) as caught:
        resolve_task(RunConfig(task="mnist", task_options={"subset": 10}))
    assert caught.value.key == "task_options.subset"


def test_checksums_are_asked_for_mnist_alone():
    assert len(MNIST.sha256) == 4
    assert ImageFiles("KMNIST") == KMNIST
