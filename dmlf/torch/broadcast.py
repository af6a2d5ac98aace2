"""Bringing the state of one rank to all others: parameters, optimizers, and plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dmlf.errors import ConfigError
from dmlf.group import Group, default_group
from dmlf.group.blobs import broadcast_bytes
from dmlf.strict_json import parse
from dmlf.torch.replicas import (
    confirm_same_layout,
    copy_from_rank,
    described,
    layout_of,
)


def broadcast_parameters(
    params: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
    root_rank: int = 0,
    *,
    group: Group | None = None,
) -> None:
    """Replace named tensors on all ranks by those of rank `root_rank`, in place.

    params: `model.state_dict()` or `model.named_parameters()`.
    Raises SchemaMismatch, on all ranks, naming the first that differs in name, shape or dtype.
    """
    group = group or default_group()
    if group.is_server:
        return  # it is given the parameters of rank 0 when it begins to serve
    named = dict(params)
    for name, tensor in named.items():
        if not isinstance(tensor, torch.Tensor):
            raise ConfigError(f"params[{name!r}]", type(tensor).__name__, "a tensor")
    confirm_same_layout(group, layout_of(named), "what to broadcast")
    copy_from_rank(group, named, root_rank)


def broadcast_optimizer_state(
    optimizer: torch.optim.Optimizer, root_rank: int = 0, *, group: Group | None = None
) -> None:
    """Replace the state and settings of `optimizer` on all ranks by those of rank `root_rank`.

    The other ranks may have no state yet, as after a resume of the root alone.
    Raises SchemaMismatch, on all ranks, where the optimizers have other parameters; ConfigError,
    on all ranks, where the state holds anything but tensors, numbers, texts and containers of
    them: nothing is pickled.
    """
    group = group or default_group()
    if group.is_server:
        return
    parameters = {
        f"{type(optimizer).__name__} {number}.{index}": parameter
        for number, settings in enumerate(optimizer.param_groups)
        for index, parameter in enumerate(settings["params"])
    }
    confirm_same_layout(group, layout_of(parameters), "the optimizer")
    tensors: list[torch.Tensor] = []
    is_root = group.rank == root_rank
    data = _packed(optimizer.state_dict(), tensors) if is_root else b""
    told = parse(broadcast_bytes(group, data, root_rank))
    if "refused" in told:
        raise ConfigError(
            told["refused"], told["type"], "tensors, numbers, texts, or lists of them"
        )
    if not is_root:
        tensors = [
            torch.empty(shape, dtype=getattr(torch, dtype)) for dtype, shape in told["tensors"]
        ]
    named = {str(number): tensor for number, tensor in enumerate(tensors)}
    copy_from_rank(group, named, root_rank)
    if not is_root:
        optimizer.load_state_dict(_decoded(told["state"], tensors))


def broadcast_object(value: Any, root_rank: int = 0, *, group: Group | None = None) -> Any:
    """The `value` of rank `root_rank`, on all ranks.

    value: what JSON knows: finite numbers, texts, booleans, None, lists, dictionaries with texts
    as keys. Tuples come back as lists. Raises ConfigError, on all ranks, for anything else.
    """
    group = group or default_group()
    data = b""
    if group.rank == root_rank:
        try:
            data = json.dumps({"value": value}).encode()
            parse(data)
            _check_keys(value)
        except (TypeError, ValueError, RecursionError) as error:
            data = json.dumps({"refused": str(error), "type": type(value).__name__}).encode()
    told = parse(broadcast_bytes(group, data, root_rank))
    if "refused" in told:
        raise ConfigError("value", told["type"], f"what JSON knows ({told['refused']})")
    return told["value"]


def _check_keys(value: Any) -> None:
    """Raise TypeError for a key that JSON would turn into a text."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys are texts, and {key!r} is none")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def _packed(state: dict[str, Any], tensors: list[torch.Tensor]) -> bytes:
    """`state` as JSON, with its tensors taken out into `tensors`; or what cannot be packed."""
    try:
        encoded = _encoded(state, tensors, "state")
    except ConfigError as error:
        return json.dumps({"refused": error.key, "type": str(error.value)}).encode()
    kinds = [(described(tensor).partition("[")[0], list(tensor.shape)) for tensor in tensors]
    return json.dumps({"state": encoded, "tensors": kinds}).encode()


def _encoded(value: Any, tensors: list[torch.Tensor], where: str) -> Any:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict):
        items = [
            [_encoded(key, tensors, where), _encoded(item, tensors, f"{where}.{key}")]
            for key, item in value.items()
        ]
        return {"dict": items}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encoded(item, tensors, where) for item in value]}
    finite = not isinstance(value, float) or math.isfinite(value)
    if value is None or (isinstance(value, bool | int | float | str) and finite):
        return {"plain": value}
    raise ConfigError(where, type(value).__name__, "")


def _decoded(encoded: dict[str, Any], tensors: list[torch.Tensor]) -> Any:
    ((kind, content),) = encoded.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_decoded(key, tensors): _decoded(item, tensors) for key, item in content}
    if kind == "plain":
        return content
    items = [_decoded(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
