"""Users' arrays and tensors as flat vectors that transports can send, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import ConfigError
from dmlf.numerics import OPERATIONS

Vector = npt.NDArray[Any]
_NAMES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
_DTYPES = frozenset(map(np.dtype, _NAMES))
_TEXTS: dict[Any, str] = {}  # by dtype, as numpy takes long to name one


class Operand:
    """A numpy array or torch tensor, of any device and layout, as a flat vector of numbers.

    flat: [numel]; shares memory with a contiguous numpy array or CPU tensor, otherwise a copy.
    A bfloat16 tensor becomes float32, which holds all its values.
    text: dtype and shape, as errors show them: `float32[3, 4]`.
    Raises ConfigError for anything but numbers.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        self._is_array = isinstance(value, np.ndarray)
        array = value if self._is_array else _array_of(value)
        check_dtype(array.dtype)
        if isinstance(value, np.ma.MaskedArray):
            raise ConfigError("array", "MaskedArray", "an array without a mask")
        self._array = np.ascontiguousarray(array)
        self.flat: Vector = self._array.reshape(-1)
        dtype = _TEXTS.get(value.dtype) or _text_of(value.dtype)
        self.text = f"{dtype}{list(value.shape)}"

    def check_writable(self) -> None:
        """Raise ConfigError when the result cannot be written to where the value is."""
        value = self._value
        if self._is_array:
            writable = value.flags.writeable
        else:
            sizes = zip(value.shape, value.stride(), strict=True)
            writable = all(stride or size < 2 for size, stride in sizes)
        if not writable:
            allowed = "an array that may be written to, each element on its own; copy it"
            raise ConfigError("array", self.text, allowed)

    def check_operation(self, op: str) -> str:
        """The elementwise operation under `op`. Raises ConfigError if these numbers have none."""
        kind = self.flat.dtype.kind
        allowed = {"b": (), "c": ("sum", "product"), "f": OPERATIONS}.get(kind, OPERATIONS)
        names = [*allowed, *(["mean"] if kind in "fc" else [])]
        if op not in names:
            which = f"one of {', '.join(names)}" if names else "numbers; booleans have no sum"
            raise ConfigError("op", op, f"{which}, for {self.text}")
        return "sum" if op == "mean" else op

    def write_back(self) -> None:
        """Bring `flat` to where the value is, if it is a copy."""
        value = self._value
        if self._is_array:
            if self._array is not value:
                value[...] = self._array.reshape(value.shape)
        elif not _shares_memory(value, self._array):
            value.detach().copy_(_tensor(self._array).reshape(value.shape))
        elif not value.is_inference():  # autograd must know that it was changed in place
            sys.modules["torch"].autograd.graph.increment_version(value)

    def like(self, flat: Vector, count: int) -> Any:
        """`flat`, [count * numel], as a value of this one's kind: [count, *shape]."""
        shaped = flat.reshape(count, *self._value.shape)
        if self._is_array:
            return shaped
        return _tensor(shaped).to(device=self._value.device, dtype=self._value.dtype)


def check_dtype(dtype: npt.DTypeLike) -> None:
    """Raise ConfigError for a dtype that cannot be sent."""
    try:
        known = np.dtype(dtype)
    except TypeError:
        known = None
    if known not in _DTYPES:
        allowed = "numbers of 8 to 64 bits a part, in this machine's byte order"
        raise ConfigError("array", str(dtype if known is None else known), allowed)


def _text_of(dtype: Any) -> str:
    text = _TEXTS[dtype] = str(dtype).removeprefix("torch.")
    return text


def _array_of(value: Any) -> Vector:
    detach: Callable[[], Any] | None = getattr(value, "detach", None)  # torch is not imported here
    if detach is None:
        raise ConfigError("array", type(value).__name__, "a numpy array or a torch tensor")
    tensor = detach()
    if str(tensor.layout) != "torch.strided":
        raise ConfigError("array", str(tensor.layout), "a dense tensor")
    if tensor.device.type == "meta":
        raise ConfigError("array", "a tensor on the device meta", "one that holds numbers")
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    try:
        array: Vector = tensor.numpy()
    except (TypeError, RuntimeError):
        raise ConfigError("array", str(tensor.dtype), "a dtype that numpy has too") from None
    return array


def _tensor(array: Vector) -> Any:
    import torch

    return torch.from_numpy(array)


def _shares_memory(tensor: Any, array: Vector) -> bool:
    device = tensor.device.type == "cpu" and str(tensor.dtype) != "torch.bfloat16"
    return device and tensor.data_ptr() == array.__array_interface__["data"][0]
