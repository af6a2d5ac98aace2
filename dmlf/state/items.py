"""What has a state: modules, optimizers, schedulers, samplers, random generators."""

from __future__ import annotations

import random
from typing import Any, Protocol

import numpy as np

from dmlf.errors import UnsupportedState
from dmlf.state.tree import described


class Group(Protocol):
    """What `save` and `load` must know of a group of ranks."""

    @property
    def rank(self) -> int:
        """This process's number; 0 writes."""

    def barrier(self) -> None:
        """Wait until every rank is here."""


def has_state(value: Any) -> bool:
    """Whether `state_of` can take its state."""
    own = isinstance(value, random.Random | np.random.Generator)
    return own or any(callable(getattr(value, name, None)) for name in ("state_dict", "get_state"))


def state_of(name: str, item: Any) -> Any:
    """The item's state as nested values. Raises UnsupportedState where it has none."""
    if callable(getattr(item, "state_dict", None)):
        return item.state_dict()
    if isinstance(item, random.Random):
        return item.getstate()
    if isinstance(item, np.random.Generator):
        return item.bit_generator.state
    if callable(getattr(item, "get_state", None)):  # torch.Generator, numpy's RandomState
        return item.get_state()
    raise UnsupportedState(
        name, f"{described(item)} without state_dict(); pass plain values as state={{...}}"
    )


def restore(item: Any, state: Any) -> None:
    """Give the item the state that `state_of` took. Raises whatever the item raises."""
    if callable(getattr(item, "load_state_dict", None)):
        item.load_state_dict(state)
    elif isinstance(item, random.Random):
        item.setstate(state)
    elif isinstance(item, np.random.Generator):
        item.bit_generator.state = state
    elif callable(getattr(item, "set_state", None)):
        item.set_state(state)
    else:
        raise TypeError(f"{described(item)} has no load_state_dict()")
