"""IDX files made for a test, and the real MNIST files where a checkout has them beside it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

IdxBytes = Callable[..., bytes]


@pytest.fixture
def idx_bytes() -> IdxBytes:
    """(values, shape=None, type_code=8) -> an IDX file; `shape` may lie."""

    def build(
        values: np.ndarray, shape: tuple[int, ...] | None = None, type_code: int = 8
    ) -> bytes:
        shape = values.shape if shape is None else shape
        header = struct.pack(f">2xBB{len(shape)}I", type_code, len(shape), *shape)
        return header + values.astype(np.uint8).tobytes()

    return build


@pytest.fixture
def write_image_files(idx_bytes: IdxBytes) -> Callable[[Path], None]:
    """(folder) -> write four small valid files: 20 training and 10 test images."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for prefix, count in (("train", 20), ("t10k", 10)):
            images = np.arange(count * 28 * 28).reshape(count, 28, 28) * 7 % 256
            labels = np.arange(count) * 3 % 10
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))

    return write


@pytest.fixture(scope="session")
def mnist_data_dir() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip("the real MNIST files are not in ../shared/data")
    return folder
