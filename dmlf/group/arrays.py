"""Users' arrays and tensors as flat vectors that transports can send, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.errors import ConfigError

Vector = npt.NDArray[Any]


class Operand:
    """A numpy array or torch tensor, of any device and layout, as a flat vector of numbers.

    flat: [numel]; shares memory with a contiguous numpy array or CPU tensor, otherwise a copy.
    A bfloat16 tensor becomes float32, which holds all its values.
    text: dtype and shape, as errors show them: `float32[3, 4]`.
    Raises ConfigError for anything but numbers.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        array = value if isinstance(value, np.ndarray) else _array_of(value)
        if array.dtype.kind not in "biufc" or not array.dtype.isnative:
            raise ConfigError("array", str(array.dtype), "numbers in this machine's byte order")
        self._array = np.ascontiguousarray(array)
        self.flat: Vector = self._array.reshape(-1)
        dtype = str(value.dtype).removeprefix("torch.")
        self.text = f"{dtype}{list(value.shape)}"

    def check_writable(self) -> None:
        """Raise ConfigError when the result cannot be written to where the value is."""
        if isinstance(self._value, np.ndarray) and not self._value.flags.writeable:
            raise ConfigError("array", self.text, "an array that may be written to")

    def write_back(self) -> None:
        """Bring `flat` to where the value is, if it is a copy."""
        if isinstance(self._value, np.ndarray):
            if self._array is not self._value:
                self._value[...] = self._array.reshape(self._value.shape)
        elif not _shares_memory(self._value, self._array):
            self._value.detach().copy_(_tensor(self._array).reshape(self._value.shape))

    def like(self, flat: Vector, count: int) -> Any:
        """`flat`, [count * numel], as a value of this one's kind: [count, *shape]."""
        shaped = flat.reshape(count, *self._value.shape)
        if isinstance(self._value, np.ndarray):
            return shaped
        return _tensor(shaped).to(device=self._value.device, dtype=self._value.dtype)


def _array_of(value: Any) -> Vector:
    detach: Callable[[], Any] | None = getattr(value, "detach", None)  # torch is not imported here
    if detach is None:
        raise ConfigError("array", type(value).__name__, "a numpy array or a torch tensor")
    tensor = detach()
    if tensor.layout.__str__() != "torch.strided":
        raise ConfigError("array", str(tensor.layout), "a dense tensor")
    tensor = tensor.cpu()
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
