"""Named arrays as safetensors, which holds no code, and the entry that the manifest keeps of them.

The format is that of https://github.com/huggingface/safetensors: a length, a JSON header, the
bytes. Its library refuses headers longer than the file, and offsets that overlap or leave holes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.checkpoint.snapshot import Arrays

Buffer = bytes | memoryview

MAX_DIMENSIONS = 32
MAX_LENGTH = 1 << 48
DTYPES = {
    "|b1": "BOOL",
    "|i1": "I8",
    "|u1": "U8",
    "<i2": "I16",
    "<u2": "U16",
    "<i4": "I32",
    "<u4": "U32",
    "<i8": "I64",
    "<u8": "U64",
    "<f2": "F16",
    "<f4": "F32",
    "<f8": "F64",
    "<c8": "C64",
    "|V2": "BF16",
}
"""numpy's name of each dtype that is kept, and that of safetensors; numpy has no bfloat16."""
_SMALL_BYTES = 1 << 15
_ALIGNMENT = 8  # bytes of the header's length, and what the header is padded to


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What the manifest says of one tensor: numpy's dtype string, and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What the manifest says of one file."""

    name: str
    size: int
    sha256: str
    tensors: Mapping[str, TensorEntry]


def name_problem(name: str) -> str | None:
    """Why a tensor may not be named so; None where it may."""
    if not name or len(name) > 1000 or name == "__metadata__":
        return "the name is empty, too long or reserved"
    if "|" in name or not name.isprintable():
        return "the name holds '|' or what cannot be printed"
    return None


def encode(file_name: str, arrays: Arrays) -> tuple[list[Buffer], FileEntry]:
    """Return a safetensors file's content, in pieces, and its entry; equal arrays give equal bytes.

    The pieces are the arrays themselves, all but small ones: the library's own `serialize` would
    copy them with the interpreter held. Raises ValueError, naming the tensor.
    """
    kept = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in kept.items():
        problem = name_problem(name)
        if array.dtype.str not in DTYPES:
            problem = f"dtype {array.dtype} is not kept; kept are {', '.join(DTYPES)}"
        if problem is not None:
            raise ValueError(f"tensor {name!r}: {problem}")
    # Large items first, as the library has it: so every array is aligned in the file.
    names = sorted(kept, key=lambda name: (-kept[name].itemsize, name))
    header, end = {}, 0
    for name in names:
        start, end = end, end + kept[name].nbytes
        header[name] = {
            "dtype": DTYPES[kept[name].dtype.str],
            "shape": kept[name].shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    first = len(text).to_bytes(_ALIGNMENT, "little") + text
    pieces = _joined([first, *(_bytes_of(kept[name]) for name in names)])
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    tensors = {name: TensorEntry(array.dtype.str, array.shape) for name, array in kept.items()}
    size = _ALIGNMENT + len(text) + end
    return pieces, FileEntry(file_name, size, digest.hexdigest(), tensors)


def decode(content: bytes, entry: FileEntry) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file, writable. Raises ValueError where `entry` does not describe it.

    Allocates no more than a second time the content's size.
    """
    import safetensors

    if len(content) != entry.size:
        raise ValueError(f"{len(content)} bytes instead of {entry.size}")
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ValueError("its SHA-256 is not that of the manifest")
    try:
        stored = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"not safetensors: {error}") from None
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, fields in stored:
        expected = entry.tensors.get(name)
        if expected is None:
            raise ValueError(f"tensor {name[:80]!r} is not in the manifest")
        if fields["dtype"] != DTYPES[expected.dtype]:
            raise ValueError(f"tensor {name!r}: {fields['dtype']} where {expected.dtype} is stated")
        if tuple(fields["shape"]) != expected.shape:
            raise ValueError(f"tensor {name!r}: shape {fields['shape']} is not {expected.shape}")
        # Not copied: safetensors gives every tensor a bytearray of its own.
        arrays[name] = np.frombuffer(fields["data"], dtype=expected.dtype).reshape(expected.shape)
    if missing := entry.tensors.keys() - arrays.keys():
        raise ValueError(f"tensor {min(missing)!r} is missing")
    return arrays


def _joined(pieces: list[Buffer]) -> list[Buffer]:
    """The same with small neighbours in one: a call for each takes longer than copying them."""
    joined: list[Buffer] = []
    small: list[Buffer] = []
    for piece in pieces:
        if len(piece) >= _SMALL_BYTES:
            joined += [b"".join(small), piece] if small else [piece]
            small = []
        else:
            small.append(piece)
    return [*joined, b"".join(small)] if small else joined


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, not copied."""
    return array.reshape(-1).view(np.uint8).data
