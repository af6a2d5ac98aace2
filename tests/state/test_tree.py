"""Values survive packing to the bit; what cannot is named before anything is written."""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dmlf
from dmlf.errors import UnsupportedState
from dmlf.state.tree import Packer, Unpacker

torch = pytest.importorskip("torch")
TORCH_DTYPES = [
    *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"),
    *("bfloat16", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
]


def bits(value: Any) -> Any:
    """The value in a form that `==` compares by type and bit."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().reshape(-1)
        raw = flat.view(torch.uint8) if flat.numel() else flat
        return "torch", str(value.dtype), tuple(value.shape), raw.tolist()
    if isinstance(value, np.ndarray | np.generic):
        return type(value).__name__, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        items = [(bits(key), bits(item)) for key, item in value.items()]
        return type(value).__name__, items, bits(getattr(value, "_metadata", None))
    if isinstance(value, list | tuple):
        return type(value).__name__, [bits(item) for item in value]
    if isinstance(value, float):
        return "float", struct.pack(">d", value)
    return type(value).__name__, value


def round_trip(value: Any) -> Any:
    packer = Packer()
    packed = json.loads(json.dumps(packer.pack(value, "value", "value"), allow_nan=False))
    return Unpacker(packer.tensors).unpack(packed)


ARRAYS = hnp.arrays(
    st.sampled_from(["?", "i1", "u2", "<i8", "<f2", "<f4", "<f8", "<c8", "<c16"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True)
    | st.text(st.characters(exclude_categories=["Cs"])) | st.binary()
)  # fmt: skip
VALUES = st.recursive(
    SCALARS | ARRAYS | ARRAYS.map(lambda array: array.reshape(-1)[:1].sum()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.booleans(), inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_any_value_comes_back_as_it_was(value: Any) -> None:
    assert bits(round_trip(value)) == bits(value)


@pytest.mark.parametrize("name", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_tensors_of_every_dtype_survive_a_checkpoint(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    dtype = getattr(torch, name)
    size = math.prod(shape) * torch.empty((), dtype=dtype).element_size()
    raw = torch.arange(size, dtype=torch.uint8) * 37 % (2 if name == "bool" else 251)
    tensor = raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    dmlf.save(
        tmp_path,
        step=1,
        state={"tensor": tensor, "transposed": tensor.mT if len(shape) == 2 else tensor},
    )
    loaded = dmlf.load(tmp_path).state
    assert bits(loaded["tensor"]) == bits(tensor)
    if len(shape) == 2:
        assert bits(loaded["transposed"]) == bits(tensor.mT)


def test_payloads_of_nan_survive(tmp_path: Path) -> None:
    pattern = np.array([0x7FC00001, 0x80000000, 1, 0xFF800000], np.uint32).view(np.float32)
    lone = struct.unpack(">d", bytes.fromhex("7ff8000000000123"))[0]
    values = [pattern, torch.from_numpy(pattern.copy()), lone, -math.inf, -0.0]
    dmlf.save(tmp_path, step=0, state=values)
    assert bits(dmlf.load(tmp_path).state) == bits(values)


def test_shared_memory_stays_shared_and_is_kept_once(tmp_path: Path) -> None:
    weights = torch.arange(1000.0)
    path = dmlf.save(tmp_path, step=0, state=[weights, weights, weights.view(10, 100)])
    assert path is not None
    assert (path / "optimizer.safetensors").stat().st_size < 30_000
    first, second, third = dmlf.load(tmp_path).state
    assert first is second
    assert third.shape == (10, 100)
    tied = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    path = dmlf.save(tmp_path, step=1, model=tied)
    assert path is not None
    assert (path / "parameters.safetensors").stat().st_size < 400


def test_memory_that_is_freed_and_used_again_is_not_taken_for_shared() -> None:
    """States that are made when they are asked for, of which only a copy is kept: no rows."""
    packer = Packer()
    for number in range(200):
        made = {"column": torch.full((100, 2), float(number))[:, 0]}
        packed = packer.pack(made, f"{number}", f"{number}")
        del made
        back = Unpacker(packer.tensors).unpack(packed)
        assert back["column"].tolist() == [float(number)] * 100
    assert len(packer.tensors) == 200


def test_a_model_is_read_by_the_library_of_the_format(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).to(torch.bfloat16)
    path = dmlf.save(tmp_path, step=7, model=model)
    assert path is not None
    read = safetensors.load_file(path / "parameters.safetensors")
    assert bits(dict(sorted(read.items()))) == bits(dict(sorted(model.state_dict().items())))


def test_a_state_dict_keeps_its_type_and_versions() -> None:
    state = torch.nn.BatchNorm1d(3).state_dict()
    back = round_trip(state)
    assert type(back) is OrderedDict
    assert back._metadata == state._metadata
    assert round_trip({"milestones": Counter({3: 2})})["milestones"] == Counter({3: 2})


class Thing:
    """Something that no checkpoint keeps."""


@pytest.mark.parametrize(
    ("value", "item", "found"),
    [
        ({"a": [1, Thing()]}, "state['a'][1]", "Thing"),
        ({"f": lambda x: x}, "state['f']", "function"),
        ({1: {2: {3: print}}}, "state[1][2][3]", "function print"),
        ([np.array([Thing()])], "state[0]", "dtype object"),
        ([np.array(["text"])], "state[0]", "dtype <U4"),
        ([np.zeros(2, ">f4")], "state[0]", "dtype >f4"),
        ([np.zeros(2, "V2")], "state[0]", "dtype |V2"),
        ({"set": {1, 2}}, "state['set']", "set"),
        ([torch.zeros(2, device="meta")], "state[0]", "without memory"),
        ([torch.eye(3).to_sparse()], "state[0]", "sparse"),
        ([torch.float32], "state[0]", "torch.dtype"),
        (["\ud800"], "state[0]", "no Unicode"),
        ({Thing: 1}, "the key", "Thing"),
    ],
    ids=lambda value: re.sub(r" at 0x[0-9a-f]+", "", str(value)),
)
def test_what_cannot_be_kept_is_named_before_anything_is_written(
    tmp_path: Path, value: Any, item: str, found: str
) -> None:
    folder = tmp_path / "checkpoints"
    with pytest.raises(UnsupportedState) as caught:
        dmlf.save(folder, step=1, state=value)
    assert caught.value.item.startswith(item)
    assert found in caught.value.found
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_values_within_themselves_are_refused(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnsupportedState, match="deeper than 100"):
        dmlf.save(tmp_path, step=1, state=loop)
