"""Nested values as JSON and named tensors, and back, with every type and every bit as it was.

JSON has no tuples, no keys but text, no infinities and no tensors, so each of these becomes an
object that says what it is; lists and dicts do as well, so that nothing is taken for another. A
tensor leaves its name in the JSON; two views of the same memory of the same shape leave the same
name, and come back as one tensor.
"""

from __future__ import annotations

import math
import struct
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.checkpoint.tensors import DTYPES
from dmlf.env import require_torch
from dmlf.errors import UnsupportedState

MAX_DEPTH = 100
_MAX_NAME = 900
_BFLOAT16 = "|V2"  # numpy has no such type; checkpoint/tensors.py keeps it under this name


class Packer:
    """Packs values; collects their tensors as named arrays, views wherever possible."""

    def __init__(self) -> None:
        self.tensors: dict[str, npt.NDArray[Any]] = {}
        self._kept: list[Any] = []  # alive as long as their addresses are told apart by
        self._names: dict[tuple[Any, ...], str] = {}

    def pack(self, value: Any, path: str, name: str, depth: int = 0) -> Any:
        """Return `value` as plain JSON.

        path: where it stands, for errors. name: of its tensors, the first part. Raises
        UnsupportedState.
        """
        if depth > MAX_DEPTH:
            raise UnsupportedState(path, f"something nested deeper than {MAX_DEPTH} levels")
        kind = type(value)
        if value is None or kind in (bool, int):
            return value
        if kind is str:
            return _text(value, path)
        if kind is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind in (list, tuple):
            items = [
                self.pack(item, f"{path}[{index}]", _joined(name, index), depth + 1)
                for index, item in enumerate(value)
            ]
            return {kind.__name__: items}
        if kind in (dict, OrderedDict, Counter):
            return self._pack_mapping(value, path, name, depth)
        if isinstance(value, np.ndarray | np.generic):
            return self._pack_array(value, path, name)
        if is_tensor(value):
            return self._pack_tensor(value, path, name)
        raise UnsupportedState(path, described(value))

    def _pack_mapping(self, value: Mapping[Any, Any], path: str, name: str, depth: int) -> Any:
        pairs = [
            (
                self.pack(key, f"the key {key!r:.80} of {path}", _joined(name, "key"), depth + 1),
                self.pack(item, f"{path}[{key!r:.80}]", _joined(name, key), depth + 1),
            )
            for key, item in value.items()
        ]
        if all(type(key) is str for key in value):
            packed: dict[str, Any] = {"dict": dict(pairs)}
        else:
            packed = {"pairs": [list(pair) for pair in pairs]}
        if type(value) is not dict:
            packed["type"] = type(value).__name__
        # Which version of each module wrote its part; `Module.load_state_dict` looks at it.
        metadata = getattr(value, "_metadata", None)
        if metadata is not None:
            where = f"the _metadata of {path}"
            packed["metadata"] = self.pack(metadata, where, _joined(name, "metadata"), depth + 1)
        return packed

    def _pack_array(self, value: Any, path: str, name: str) -> Any:
        array = np.asarray(value)
        if array.dtype.str not in DTYPES or array.dtype.kind == "V":
            if array.dtype.str != "<c16":
                raise UnsupportedState(path, f"an array of dtype {array.dtype}")
            array = _as_pairs(array)
        packed = {"tensor": self._keep(array, value, name), "of": "numpy"}
        if isinstance(value, np.generic):
            packed["of"] = "scalar"
        if value.dtype.str == "<c16":
            packed["dtype"] = "complex128"
        return packed

    def _pack_tensor(self, value: Any, path: str, name: str) -> Any:
        torch = sys.modules["torch"]
        parameter = sys.modules["torch.nn"].Parameter
        if type(value) not in (torch.Tensor, parameter):
            raise UnsupportedState(path, f"a {type(value).__name__}, no plain tensor")
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise UnsupportedState(path, "a tensor that is sparse, quantized or without memory")
        dtype = str(value.dtype).removeprefix("torch.")
        # What is conjugated or negated lazily has other bits in memory than it shows.
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        if dtype == "bfloat16":
            array = plain.view(torch.int16).numpy().view(_BFLOAT16)
        elif dtype.startswith("float8"):
            array = plain.view(torch.uint8).numpy()
        elif dtype == "complex128":
            array = torch.view_as_real(plain).numpy()
        else:
            try:
                array = plain.numpy()
            except TypeError:
                raise UnsupportedState(path, f"a tensor of dtype {dtype}") from None
            if array.dtype.str not in DTYPES:
                raise UnsupportedState(path, f"a tensor of dtype {dtype}")
        return {"tensor": self._keep(array, value, name), "of": "torch", "dtype": dtype}

    def _keep(self, array: npt.NDArray[Any], source: Any, name: str) -> str:
        key = _memory(source)
        if key is not None and key in self._names:
            return self._names[key]
        unique, count = name, 1
        while unique in self.tensors:
            count += 1
            unique = f"{name}~{count}"
        self.tensors[unique] = array
        if key is not None:
            self._names[key] = unique
            self._kept.append(source)
        return unique


class Unpacker:
    """Turns what a `Packer` made back into values; each tensor is made once."""

    def __init__(self, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        self._tensors = tensors
        self._made: dict[tuple[str, str], Any] = {}

    def unpack(self, node: Any) -> Any:
        """Return the value. Raises ValueError where `node` is none that a Packer makes."""
        if node is None or type(node) in (bool, int, float, str):
            return node
        match node:
            case {"float": str(bits)}:
                return struct.unpack(">d", bytes.fromhex(bits))[0]
            case {"bytes": str(text)}:
                return bytes.fromhex(text)
            case {"list": list(items)}:
                return [self.unpack(item) for item in items]
            case {"tuple": list(items)}:
                return tuple(self.unpack(item) for item in items)
            case {"dict": dict(items)}:
                return self._mapping({key: self.unpack(item) for key, item in items.items()}, node)
            case {"pairs": list(pairs)}:
                return self._mapping({self.unpack(k): self.unpack(v) for k, v in pairs}, node)
            case {"tensor": str(name), "of": str(kind)}:
                return self._tensor(name, kind, node.get("dtype"))
        raise ValueError(f"{str(node)[:80]} is no value that was packed")

    def _mapping(self, plain: dict[Any, Any], node: Mapping[str, Any]) -> Any:
        kinds: dict[str, Callable[[Any], Any]] = {
            "dict": dict,
            "OrderedDict": OrderedDict,
            "Counter": Counter,
        }
        made = kinds[node.get("type", "dict")](plain)
        if "metadata" in node:
            made._metadata = self.unpack(node["metadata"])
        return made

    def _tensor(self, name: str, kind: str, dtype: str | None) -> Any:
        if (name, kind) not in self._made:
            if name not in self._tensors:
                raise ValueError(f"tensor {name[:80]!r} is missing")
            self._made[name, kind] = self._make(self._tensors[name], kind, dtype)
        return self._made[name, kind]

    def _make(self, array: npt.NDArray[Any], kind: str, dtype: str | None) -> Any:
        if kind != "torch":
            if dtype == "complex128":
                array = array.reshape(-1).view(np.complex128).reshape(array.shape[:-1])
            return array if kind == "numpy" else array[()]
        torch = require_torch()
        if array.dtype.str == _BFLOAT16:
            array = array.view(np.int16)
        # Cloned into memory of torch's own, whose alignment kernels may care for.
        tensor = torch.from_numpy(array).clone()
        wanted = getattr(torch, str(dtype))
        if dtype == "complex128":
            return torch.view_as_complex(tensor)
        return tensor if tensor.dtype == wanted else tensor.view(wanted)


def is_tensor(value: Any) -> bool:
    """Whether it is a torch tensor; torch is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def described(value: Any) -> str:
    """What a value is, for an error."""
    name = getattr(value, "__qualname__", None)
    if callable(value) and name:
        return f"the function {name}"
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}"


def _as_pairs(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """complex128 as float64 with a last dimension of two."""
    plain = np.ascontiguousarray(array).reshape(-1).view(np.float64)
    return plain.reshape(*array.shape, 2)


def _memory(source: Any) -> tuple[Any, ...] | None:
    """What two views of the same memory have in common; None where there is no memory."""
    if is_tensor(source):
        if source.numel() == 0 or source.is_conj() or source.is_neg():
            return None
        place = (str(source.device), source.data_ptr(), source.stride())
        return ("torch", *place, tuple(source.shape), source.dtype)
    if isinstance(source, np.generic) or source.size == 0:
        return None
    return ("numpy", source.ctypes.data, source.strides, source.shape, source.dtype.str)


def _joined(name: str, key: object) -> str:
    """The name of what stands under `key`; printable, and not too long."""
    text = "".join(
        letter if letter.isprintable() and letter not in "|%" else f"%{ord(letter):x}"
        for letter in str(key)
    )
    return f"{name}.{text}"[:_MAX_NAME] if name else text[:_MAX_NAME]


def _text(value: str, path: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UnsupportedState(path, "text that is no Unicode") from None
    return value
