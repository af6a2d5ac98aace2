"""Tensors as flat vectors that transports can send, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dmlf.errors import ConfigError

Vector = npt.NDArray[Any]

_AS_BITS = {
    torch.bfloat16: torch.uint16,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
}
"""What numpy lacks travels as the bits that it is."""
_NUMBERS = {
    *(torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32),
    *(torch.uint64, torch.int64, torch.float16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
}


class Wire:
    """A dense CPU tensor as a flat vector.

    flat: [numel] in the tensor's dtype, bfloat16 and float8 as unsigned integers of their bits;
    it shares memory with a contiguous tensor and is a copy of any other.
    text: dtype and shape, as errors show them: `float32[3, 4]`.
    Raises ConfigError for other tensors.
    """

    __slots__ = ("_copy", "_tensor", "flat", "text")

    def __init__(self, tensor: torch.Tensor) -> None:
        dtype = tensor.dtype
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            where = f"{tensor.layout} on {tensor.device}"
            raise ConfigError("tensor", where, "a dense tensor on the CPU")
        bits = _AS_BITS.get(dtype)
        if bits is None and dtype not in _NUMBERS:
            raise ConfigError("tensor", str(dtype), "a tensor of plain numbers")
        self._tensor = tensor = tensor.detach()
        plain = tensor.resolve_conj().resolve_neg().contiguous()
        self._copy = None if plain.data_ptr() == tensor.data_ptr() else plain
        # `numpy()` would forbid torch to resize the storage, as FSDP does to free parameters.
        self.flat: Vector = np.from_dlpack(plain if bits is None else plain.view(bits)).reshape(-1)
        self.text = f"{str(dtype)[6:]}{list(tensor.shape)}"

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's own dtype."""
        return self._tensor.dtype

    def write_back(self) -> None:
        """Bring `flat` to where the tensor is, if it is a copy."""
        if self._copy is not None:
            self._tensor.copy_(self._copy)

    def take(self, payload: Any) -> None:
        """Replace the tensor by what came from another rank, which agreed on dtype and numel."""
        np.copyto(self.flat, payload, casting="no")
        self.write_back()
