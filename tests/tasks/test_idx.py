from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from dmlf.errors import DatasetError
from dmlf.tasks.idx import read_idx

IMAGES = np.arange(3 * 2 * 4).reshape(3, 2, 4) * 11 % 256


def refused(path: Path, num_dimensions: int = 3) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        read_idx(path, num_dimensions)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_reads_values_shape_and_hash(tmp_path, idx_bytes):
    path = tmp_path / "images"
    content = idx_bytes(IMAGES)
    path.write_bytes(content)
    file = read_idx(path, 3)
    np.testing.assert_array_equal(file.values, IMAGES)
    assert file.values.dtype == np.uint8
    assert file.sha256 == hashlib.sha256(content).hexdigest()


def test_refuses_truncation_at_every_byte(tmp_path, idx_bytes):
    path = tmp_path / "images"
    content = idx_bytes(IMAGES)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)


def test_refuses_every_trailing_byte(tmp_path, idx_bytes):
    path = tmp_path / "images"
    path.write_bytes(idx_bytes(IMAGES) + b"\x00")
    assert "too long" in refused(path).problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"\x00\x00\x08", "inside its header"),
        (b"\x00\x00\x08\x03\x00\x00\x00\x01\x00", "inside its header"),
        (b"PK\x03\x04" + bytes(20), "not an IDX file"),
        (b"\x00\x01\x08\x03" + bytes(20), "not an IDX file"),
        (b"<!DOCTYPE html><html></html>", "not an IDX file"),
        (gzip.compress(b"\x00\x00\x08\x03" + bytes(12), mtime=0), "gzip"),
        (b"\x00\x00\x0d\x03" + bytes(20), "type code 0x0d"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01\x05", "1 dimensions where 3"),
        (b"\x00\x00\x08\xff" + bytes(20), "255 dimensions where 3"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12 + b"\x01", "truncated"),
        # 2^22 x 2^21 x 2^21 = 2^64: zero in 64-bit arithmetic, which an empty body would match.
        (b"\x00\x00\x08\x03\x00\x40\x00\x00\x00\x20\x00\x00\x00\x20\x00\x00", "truncated"),
        (b"\x00\x00\x08\x03" + bytes(12), "holds nothing"),
    ],
)
def test_names_what_is_wrong(tmp_path, content, problem):
    path = tmp_path / "images"
    path.write_bytes(content)
    assert problem in refused(path).problem


def test_refuses_what_is_no_file(tmp_path):
    assert "cannot be read" in refused(tmp_path / "absent").problem
    assert refused(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "regular file" in refused(fifo).problem
