"""A user's training function that is called again when its ranks have changed.

The argument of `dmlf.training.restoring`, for loops that dmlf does not run: a step's all-reduce
ends on no rank before every rank's gradient is in it, so what ranks have committed differs by one
step at most. The newest commit wins, and who is behind takes it, instead of doing the step again.
Which samples a step takes must be a function of the state alone, as `dmlf.ElasticSampler` has it;
then no sample is lost or used twice, and with exact sums no bit depends on what has happened.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from dmlf.errors import (
    CollectiveAborted,
    CollectiveMismatch,
    ConfigError,
    DmlfError,
    GroupClosed,
    PeerLost,
    ProtocolError,
    SchemaMismatch,
    TransportError,
)
from dmlf.group import default_group, init, is_initialized
from dmlf.group.binding import bind_all, release_all
from dmlf.group.default import abandon
from dmlf.group.place import seat as seat_of_process
from dmlf.runtime.outcomes import is_echo
from dmlf.runtime.seat import Seat
from dmlf.state.elastic_state import ElasticState

HOLD_S = 2.0
"""How long a rank that misses another one waits for the launcher to know what became of it."""
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def elastic(
    fn: Callable[Concatenate[ElasticState, Arguments], Result],
) -> Callable[Concatenate[ElasticState, Arguments], Result]:
    """Call `fn(state, ...)` again, from its newest commit, whenever its ranks have changed.

    Ranks change where a launcher can do that: `dmlf.launch` and `dmlf run` with `max_restarts`,
    `min_workers` or `max_workers`. Then every rank's collective, or commit, raises; the group of
    the process is made anew, the state brought to the newest commit, and `fn` called, until it has
    returned on all ranks. So what depends on rank or world size is made in `fn`. What `fn` raises
    itself ends the run. Elsewhere `fn` is called once, on the state of rank 0.

    Raises ConfigError unless the first argument is a `dmlf.ElasticState`; and what `fn` raises.
    """

    @functools.wraps(fn)
    def call(state: ElasticState, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not isinstance(state, ElasticState):
            raise ConfigError(
                "state", type(state).__name__, "a dmlf.ElasticState, as first argument"
            )
        seat = seat_of_process()
        state.begin()
        if seat is None or seat.is_inside or seat.is_finished:
            state.synchronize(default_group() if is_initialized() else init())
            return fn(state, *args, **kwargs)
        return _until_all_are_done(seat, state, lambda: fn(state, *args, **kwargs))

    return call


def _until_all_are_done(seat: Seat, state: ElasticState, run: Callable[[], Result]) -> Result:
    settings: dict[str, Any] = {}
    while True:
        lost = None
        try:
            result = _in_one_generation(seat, state, settings, run)
        except DmlfError as error:
            lost = _lost_rank(error)
            if lost is None:
                raise
        if lost is None and seat.done():
            return result
        release_all()
        abandon()
        if lost is not None:
            if is_echo(seat.rank, lost):
                seat.hold(HOLD_S)
            seat.stopped(lost)


def _in_one_generation(
    seat: Seat, state: ElasticState, settings: dict[str, Any], run: Callable[[], Result]
) -> Result:
    """Join it, take its state, and run. settings: of the group; those of the last one are kept."""
    group = default_group() if is_initialized() else init(**settings)
    settings.update(timeout_s=group.timeout_s, algorithm=group.algorithm.name)
    seat.enter()
    source = state.synchronize(group)
    bind_all(group)
    seat.resumed(state.commits, source)
    return run()


def _lost_rank(error: DmlfError) -> DmlfError | None:
    """The error as what the launcher can mend; None where it is of the function's own making."""
    if isinstance(error, GroupClosed):  # another rank has left the group, and knows why
        return PeerLost("another rank", str(error.cause)) if is_initialized() else None
    if isinstance(error, SchemaMismatch | CollectiveMismatch):
        return None
    mended = isinstance(error, CollectiveAborted | TransportError | ProtocolError)
    return error if mended else None
