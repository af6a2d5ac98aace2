"""What is bound to the group of a process and outlives it: wrapped models and optimizers.

Where groups come with generations, what was made before the function that recovers is bound anew to
every group, in the order in which it was made, on all ranks alike; what was made in the function
is let go with the group that it was made for.
"""

from __future__ import annotations

import weakref
from typing import Protocol

from dmlf.group.group import Group
from dmlf.group.place import seat


class Bound(Protocol):
    """Takes part in collectives of a group."""

    def bind(self, group: Group) -> None:
        """Take part in those of `group` from now on; all ranks call it together."""

    def release(self) -> None:
        """Take part in none; the group is no more."""


_lasting: list[weakref.ref[Bound]] = []
_passing: list[weakref.ref[Bound]] = []


def waits_for_group(bound: Bound) -> bool:
    """Whether `bound` is bound later, when a function that recovers begins; else it must be now."""
    own = seat()
    if own is None or own.is_finished:
        return False
    (_passing if own.is_inside else _lasting).append(weakref.ref(bound))
    return not own.is_inside


def bind_all(group: Group) -> None:
    """Bind what lasts to `group`; all ranks call it together."""
    for bound in _alive(_lasting):
        bound.bind(group)


def release_all() -> None:
    """The group is no more."""
    for bound in _alive(_passing) + _alive(_lasting):
        bound.release()
    _passing.clear()


def _alive(references: list[weakref.ref[Bound]]) -> list[Bound]:
    found = [reference() for reference in references]
    return [bound for bound in found if bound is not None]
