"""Named arrays as payloads of messages, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmlf.protocol import Kind, Move

Arrays = dict[str, npt.NDArray[Any]]


class Gathered:
    """What has come from other ranks."""

    def __init__(self) -> None:
        self.parameters: Arrays = {}
        self.optimizer: Arrays = {}
        self.note: Any = None
        self._expected: list[tuple[Arrays, str, str, tuple[int, ...]]] = []

    def write(self, move: Move, index: int, payload: Any) -> None:
        """Keep a copy of a payload of `packed`, or a note."""
        if move.kind is Kind.NOTE:
            self.note = json.loads(payload)
        elif index == 0:
            into = {"parameters": self.parameters, "optimizer": self.optimizer}
            self._expected = [
                (into[group], name, dtype, tuple(shape))
                for group, name, dtype, shape in json.loads(payload)
            ]
        else:
            target, name, dtype, shape = self._expected[index - 1]
            target[name] = np.array(payload).view(dtype).reshape(shape)


def packed(
    parameters: Mapping[str, npt.NDArray[Any]], optimizer: Mapping[str, npt.NDArray[Any]] | None
) -> list[Any]:
    """Payloads of named arrays: a table of groups, names, dtypes and shapes, then their bytes."""
    named = [("parameters", *item) for item in parameters.items()]
    named += [("optimizer", *item) for item in (optimizer or {}).items()]
    table = [(group, name, array.dtype.str, array.shape) for group, name, array in named]
    arrays = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for _, _, array in named]
    return [json.dumps(table).encode(), *arrays]


class Copies:
    """Copies of arrays, whose memory is made once: new memory costs more time than the copying."""

    def __init__(self) -> None:
        self._kept: Arrays = {}

    def made_of(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Copies of all `arrays`; those of the last call are not to be used any more."""
        last, self._kept = self._kept, {}
        for name, array in arrays.items():
            copy = last.get(name)
            if copy is None or (copy.dtype, copy.shape) != (array.dtype, array.shape):
                copy = np.empty_like(array, order="C")
            np.copyto(copy, array)
            self._kept[name] = copy
        return dict(self._kept)
