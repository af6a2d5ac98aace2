"""Collectives of torch tensors: every dtype and layout, and what autograd is told."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from dmlf.errors import ConfigError
from dmlf.group import Group
from dmlf.runtime import NoTransport
from tests.group.worlds import world

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch", allow_module_level=True)
import torch

DTYPES = ["uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
every_transport = pytest.mark.parametrize("transport", ["queue", "shm", "tcp"])


def tensor(rank: int, dtype: str = "float32") -> torch.Tensor:
    """[3, 5] of small whole numbers, which every dtype holds."""
    return ((torch.arange(15) * 5 + 3 * rank) % 4 + 1).reshape(3, 5).to(getattr(torch, dtype))


def total(world_size: int, dtype: str = "float32") -> torch.Tensor:
    return torch.stack([tensor(rank, dtype) for rank in range(world_size)]).sum(0)


@every_transport
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_dtype(transport: str, world_size: int) -> None:
    def program(group: Group) -> list[Any]:
        return [
            (
                group.all_reduce(tensor(group.rank, dtype)),
                group.broadcast(tensor(group.rank, dtype), root=world_size - 1),
                group.all_gather(tensor(group.rank, dtype)),
            )
            for dtype in [*DTYPES, "complex64", "complex128"]
        ]

    for results in world(transport, world_size, program):
        for dtype, (summed, sent, gathered) in zip(
            [*DTYPES, "complex64", "complex128"], results, strict=True
        ):
            kind = getattr(torch, dtype)
            assert (summed.dtype, sent.dtype, gathered.dtype) == (kind,) * 3
            assert torch.equal(summed, total(world_size, dtype).to(kind))
            assert torch.equal(sent, tensor(world_size - 1, dtype))
            assert gathered.shape == (world_size, 3, 5)
            for rank in range(world_size):
                assert torch.equal(gathered[rank], tensor(rank, dtype))


def test_bfloat16_is_added_in_float32() -> None:
    """256 + 1 + 1 would stay 256 in bfloat16, addition by addition."""
    values = [256.0, 1.0, 1.0]

    def program(group: Group) -> float:
        value = torch.full((6,), values[group.rank], dtype=torch.bfloat16)
        return group.all_reduce(value)[0].item()

    assert world("shm", 3, program) == [258.0] * 3


def layouts(rank: int) -> dict[str, torch.Tensor]:
    whole = torch.zeros(6, 10)
    whole[::2, ::2] = tensor(rank)
    conjugate = torch.complex(tensor(rank), -tensor(rank))
    return {
        "contiguous": tensor(rank),
        "transposed": tensor(rank).T.contiguous().T,
        "strided": whole[::2, ::2],
        "conjugate": conjugate.conj().resolve_conj().conj().conj(),
        "conjugate view": torch.complex(tensor(rank), tensor(rank)).conj().conj().conj(),
        "negative view": torch.complex(tensor(rank), -tensor(rank)).conj().imag,
    }


def test_every_layout_is_replaced_in_place() -> None:
    def program(group: Group) -> dict[str, torch.Tensor]:
        found = layouts(group.rank)
        for value in found.values():
            assert group.all_reduce(value) is value
        return found

    parts = [layouts(rank) for rank in range(3)]
    for results in world("tcp", 3, program):
        for name, value in results.items():
            expected = sum(part[name].resolve_conj().resolve_neg() for part in parts)
            assert torch.equal(value.resolve_conj().resolve_neg(), expected), name


def test_zero_dimensions_and_no_elements() -> None:
    def program(group: Group) -> tuple[torch.Tensor, ...]:
        scalar = group.all_reduce(torch.tensor(float(group.rank)))
        empty = group.all_reduce(torch.zeros(0, 3))
        return scalar, empty, group.all_gather(torch.tensor(group.rank))

    for scalar, empty, gathered in world("shm", 3, program):
        assert scalar.shape == ()
        assert scalar.item() == 3.0
        assert empty.shape == (0, 3)
        assert gathered.tolist() == [0, 1, 2]


def test_tensors_of_autograd_are_changed_in_place_and_it_knows() -> None:
    group = Group(NoTransport(), 0, 1)
    leaf = torch.ones(3, requires_grad=True)
    group.broadcast(leaf)
    assert leaf.requires_grad
    assert leaf.grad_fn is None
    weight = torch.full((3,), 2.0, requires_grad=True)
    square = (weight * 1.0) ** 2
    middle = weight * 1.0
    output = (middle**2).sum()
    group.all_reduce(middle)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()  # type: ignore[no-untyped-call]
    square.sum().backward()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        assert group.all_reduce(torch.ones(2)).tolist() == [1.0, 1.0]


def test_arrays_and_tensors_can_be_mixed() -> None:
    def program(group: Group) -> Any:
        value: Any = tensor(group.rank) if group.rank else tensor(0).numpy()
        return np.asarray(group.all_reduce(value))

    for result in world("queue", 3, program):
        np.testing.assert_array_equal(result, total(3).numpy())


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (torch.zeros(3, dtype=torch.bool), "op"),
        (torch.zeros(3).to_sparse(), "array"),
        (torch.zeros(3, device="meta"), "array"),
        (torch.zeros(1).expand(3), "array"),
        (torch.zeros(3, dtype=torch.float8_e4m3fn), "array"),
    ],
)
def test_tensors_that_cannot_be_summed_are_refused(value: torch.Tensor, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Group(NoTransport(), 0, 2).all_reduce(value)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)
