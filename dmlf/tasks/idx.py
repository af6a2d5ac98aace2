"""A strict reader of IDX files of unsigned bytes, the format of MNIST and its relatives.

Layout: two zero bytes, a type code (0x08: unsigned byte), the number of dimensions, each
dimension as a big-endian unsigned 32-bit integer, then exactly their product of bytes. Whatever
differs is refused before the body is read, so no header can make the reader allocate more than
the file holds.
Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dmlf.errors import DatasetError

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_REPLACE = "replace the file with an intact, unpacked IDX file"


@dataclass(frozen=True, slots=True, eq=False)
class IdxFile:
    """What an IDX file holds: values uint8 of the header's shape, and the whole file's SHA-256."""

    path: Path
    values: NDArray[np.uint8]
    sha256: str


def read_idx(path: Path, num_dimensions: int) -> IdxFile:
    """Read an IDX file of unsigned bytes with exactly `num_dimensions` dimensions.

    The header, the sizes and the file's length must agree to the byte. Raises DatasetError.
    """
    try:
        # Non-blocking, or opening a FIFO in the file's place would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _damaged(path, "is not a regular file")
            return _read(path, file, status.st_size, num_dimensions)
    except OSError as error:
        raise DatasetError(
            str(path), f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from error


def _read(path: Path, file: BinaryIO, file_bytes: int, num_dimensions: int) -> IdxFile:
    magic = file.read(4)
    _check_magic(path, magic, num_dimensions)
    sizes = file.read(4 * num_dimensions)
    if len(sizes) < 4 * num_dimensions:
        raise _damaged(path, f"ends inside its header, after {file_bytes} bytes")
    shape = struct.unpack(f">{num_dimensions}I", sizes)
    expected_bytes = prod(shape)
    body_bytes = file_bytes - len(magic) - len(sizes)
    dimensions = " x ".join(map(str, shape))
    if expected_bytes == 0:
        raise _damaged(path, f"holds nothing: its header says {dimensions}")
    if body_bytes != expected_bytes:
        kind = "truncated" if body_bytes < expected_bytes else "too long"
        raise _damaged(
            path,
            f"is {kind}: its header says {dimensions} = {expected_bytes} bytes, "
            f"its body has {body_bytes}",
        )
    body = file.read(expected_bytes)
    if len(body) != expected_bytes:
        raise _damaged(path, "changed while it was read")
    digest = hashlib.sha256(magic + sizes)
    digest.update(body)
    return IdxFile(path, np.frombuffer(body, dtype=np.uint8).reshape(shape), digest.hexdigest())


def _check_magic(path: Path, magic: bytes, num_dimensions: int) -> None:
    if not magic:
        raise _damaged(path, "is empty")
    if magic.startswith(_GZIP_MAGIC):
        raise DatasetError(str(path), "is gzip-compressed", "unpack it first, as with gunzip")
    if len(magic) < 4:
        raise _damaged(path, f"ends inside its header, after {len(magic)} bytes")
    if magic[:2] != b"\x00\x00":
        raise _damaged(path, f"is not an IDX file: it starts with the bytes {magic.hex(' ')}")
    if magic[2] != _UNSIGNED_BYTE:
        raise _damaged(path, f"has type code 0x{magic[2]:02x} where 0x08 (unsigned byte) belongs")
    if magic[3] != num_dimensions:
        raise _damaged(path, f"has {magic[3]} dimensions where {num_dimensions} belong")


def _damaged(path: Path, problem: str) -> DatasetError:
    return DatasetError(str(path), problem, _REPLACE)
