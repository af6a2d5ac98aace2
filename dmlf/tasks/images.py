"""Tasks `mnist`, `fashion_mnist` and `kmnist`: 28x28 grey images in ten classes, from IDX files.

Files are looked for under `config.data_dir` in torchvision's layout (`MNIST/raw/...`). Present
files are read without torchvision and without the network; absent ones are downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dmlf.config import RunConfig
from dmlf.errors import DatasetError
from dmlf.tasks.download import download_missing
from dmlf.tasks.idx import IdxFile, read_idx
from dmlf.tasks.models import classification_task
from dmlf.tasks.registry import register_task
from dmlf.tasks.task import Array, Dataset, FloatArray, TorchTask, refuse_unknown_options

NUM_CLASSES = 10
IMAGE_SIZE = 28
SPLIT_PREFIXES = ("train", "t10k")


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The four IDX files of one data set.

    torchvision_class: name of the class in torchvision.datasets, and of the folder it uses.
    sha256: file name -> SHA-256 of the canonical unpacked file, where it is known.
    """

    torchvision_class: str
    sha256: Mapping[str, str] = field(default_factory=dict)


MNIST = ImageFiles(
    "MNIST",
    {
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
)
# For these two only the archives' MD5 is published, which torchvision checks as it downloads.
FASHION_MNIST = ImageFiles("FashionMNIST")
KMNIST = ImageFiles("KMNIST")


@register_task("mnist")
def mnist(config: RunConfig) -> TorchTask:
    """60,000 and 10,000 handwritten digits."""
    return _image_task(config, MNIST)


@register_task("fashion_mnist")
def fashion_mnist(config: RunConfig) -> TorchTask:
    """60,000 and 10,000 pictures of clothing."""
    return _image_task(config, FASHION_MNIST)


@register_task("kmnist")
def kmnist(config: RunConfig) -> TorchTask:
    """60,000 and 10,000 handwritten Japanese characters."""
    return _image_task(config, KMNIST)


def _image_task(config: RunConfig, files: ImageFiles) -> TorchTask:
    refuse_unknown_options(config)
    return classification_task(
        config,
        (1, IMAGE_SIZE, IMAGE_SIZE),
        NUM_CLASSES,
        lambda: load_images(files, Path(config.data_dir)),
    )


def load_images(files: ImageFiles, data_dir: Path) -> Dataset:
    """Find or download the files, verify them, and return images in [0, 1] with their labels.

    Inputs are float32 [n, 1, 28, 28], targets int64 [n]. Raises DatasetError,
    DependencyMissing (only where a download is needed).
    """
    names = [name for prefix in SPLIT_PREFIXES for name in file_names(prefix)]
    folder = download_missing(
        files.torchvision_class, names, data_dir, lambda staged: _read_both(files, staged)
    )
    (train_inputs, train_targets), (test_inputs, test_targets) = _read_both(files, folder)
    return Dataset(
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        num_classes=NUM_CLASSES,
    )


def file_names(prefix: str) -> tuple[str, str]:
    """Return the names of a split's image file and label file."""
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def _read_both(files: ImageFiles, folder: Path) -> list[tuple[FloatArray, Array]]:
    return [_read_split(files, folder, prefix) for prefix in SPLIT_PREFIXES]


def _read_split(files: ImageFiles, folder: Path, prefix: str) -> tuple[FloatArray, Array]:
    images_name, labels_name = file_names(prefix)
    images = read_idx(folder / images_name, num_dimensions=3)
    labels = read_idx(folder / labels_name, num_dimensions=1)
    count, height, width = images.values.shape
    if (height, width) != (IMAGE_SIZE, IMAGE_SIZE):
        raise DatasetError(
            str(images.path),
            f"holds {height}x{width} images where {IMAGE_SIZE}x{IMAGE_SIZE} belong",
            "replace the file with the data set's own",
        )
    if len(labels.values) != count:
        raise DatasetError(
            str(labels.path),
            f"{len(labels.values)} labels for the {count} images of {images_name}",
            "replace both files with a matching pair",
        )
    outside = np.flatnonzero(labels.values >= NUM_CLASSES)
    if outside.size:
        raise DatasetError(
            str(labels.path),
            f"label {labels.values[outside[0]]} of sample {outside[0]} is outside the classes "
            f"0 to {NUM_CLASSES - 1}",
            "replace the file with the data set's own",
        )
    # Last, because every other check names the fault more exactly than a checksum can.
    _check_sha256(images, files)
    _check_sha256(labels, files)
    inputs = images.values.astype(np.float32)[:, None]
    inputs /= 255.0
    return inputs, labels.values.astype(np.int64)


def _check_sha256(file: IdxFile, files: ImageFiles) -> None:
    expected = files.sha256.get(file.path.name)
    if expected is not None and file.sha256 != expected:
        raise DatasetError(
            str(file.path),
            f"is a valid IDX file but not {files.torchvision_class}'s own: "
            f"SHA-256 {file.sha256[:12]}..., expected {expected[:12]}...",
            "delete it to download the original, or train on data of your own with a task "
            "module:function",
        )
