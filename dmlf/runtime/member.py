"""A rank's process that outlives a generation: it takes orders, and tells what became of them.

    launcher                                     member
      <------------------------------ joined
    start (generation, endpoint, ...) ----->     runs the rank; between slices of a wait and
                                                 between steps it looks for an order
      <------------------------------ resumed    trains
      <------------------------------ fired      an injected fault
      <------------------------------ noted      something to be kept for whoever has its rank next
    abort (generation) -------------------->     stops
      <------------------------------ acknowledged, failed (error), or done (report)
    exit ---------------------------------->     ends

A death says itself: by the process's sentinel.
"""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from dmlf.errors import CollectiveAborted, DmlfError, RemoteError
from dmlf.runtime.child import die_with_launcher, load_function
from dmlf.runtime.parcel import receive_parcel

JOINED, RESUMED, NOTED, FIRED = "joined", "resumed", "noted", "fired"
ACKNOWLEDGED, FAILED, DONE = "acknowledged", "failed", "done"


@dataclass(frozen=True, slots=True)
class StartOrder:
    """Run `generation` over `endpoint`.

    trust_memory: whether what this process holds may be used. note: what a member of this rank has
    noted last.
    """

    generation: int
    endpoint: Any
    trust_memory: bool
    note: Any


@dataclass(frozen=True, slots=True)
class AbortOrder:
    """Stop `generation`."""

    generation: int


@dataclass(frozen=True, slots=True)
class ExitOrder:
    """End the process."""


class Program(Protocol):
    """What a member runs, and keeps from one generation to the next."""

    def run(self, order: StartOrder, line: Line) -> Any:
        """Run one generation to its end, and return the report.

        Calls `line.check` often, and `line.resumed` once it has caught up. Whatever it raises, the
        next call finds everything as the last completed step left it.
        """


class Line:
    """The member's end of the pipe, for one generation."""

    def __init__(self, pipe: Connection, generation: int) -> None:
        self._pipe = pipe
        self._generation = generation
        self._orders = select.poll()  # Connection.poll makes a selector each time, for every step
        self._orders.register(pipe.fileno(), select.POLLIN)

    def check(self) -> None:
        """Raise CollectiveAborted if the launcher has ordered this generation to stop."""
        while self._orders.poll(0):
            order = receive_parcel(self._pipe)
            if isinstance(order, AbortOrder) and order.generation == self._generation:
                raise CollectiveAborted(order.generation)

    def resumed(self, step: int, source: str) -> None:
        """Tell that training goes on after `step` steps."""
        self._pipe.send((RESUMED, self._generation, (step, source)))

    def fired(self, fault: int) -> None:
        """Tell that the fault of this number strikes now."""
        self._pipe.send((FIRED, self._generation, (fault, time.monotonic())))

    def note(self, value: Any) -> None:
        """Leave something for the next member of this rank."""
        self._pipe.send((NOTED, self._generation, value))


def run_member(rank: int, program: str, argument: Any, pipe: Connection) -> None:
    """Make the program, `module:function` of (rank, argument), and run it as ordered."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_launcher()
    try:
        made: Program = load_function(program)(rank, argument)
    except Exception as error:
        pipe.send((FAILED, 0, _typed(rank, error)))
        receive_parcel(pipe)
        os._exit(1)
    pipe.send((JOINED, 0, None))
    while True:
        order = receive_parcel(pipe)
        if isinstance(order, ExitOrder):
            return
        if isinstance(order, AbortOrder):  # it crossed this member's own word on its way
            pipe.send((ACKNOWLEDGED, order.generation, None))
        elif isinstance(order, StartOrder):
            pipe.send(_outcome(rank, order, pipe, made.run))


def _outcome(
    rank: int, order: StartOrder, pipe: Connection, run: Callable[[StartOrder, Line], Any]
) -> tuple[str, int, Any]:
    try:
        return DONE, order.generation, run(order, Line(pipe, order.generation))
    except CollectiveAborted:
        return ACKNOWLEDGED, order.generation, None
    except Exception as error:
        return FAILED, order.generation, _typed(rank, error)


def _typed(rank: int, error: Exception) -> DmlfError:
    if isinstance(error, DmlfError):
        return error.with_traceback(None)  # its frames would keep the generation's memory alive
    text = "".join(traceback.format_exception(error))
    return RemoteError(rank, f"{type(error).__name__}: {error}", text)
