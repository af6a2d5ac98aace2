"""A rank's process that outlives a generation: it takes orders, and tells what became of them.

    launcher                                     member
      <------------------------------ joined
    start (generation, rank, endpoint) ---->     runs the rank; between slices of a wait and
                                                 between steps it looks for an order
      <------------------------------ resumed    trains
      <------------------------------ recorded   what it does in a step, where that is recorded
      <------------------------------ fired      an injected fault
      <------------------------------ saved      a checkpoint, which is durable
      <------------------------------ leaving    it has got SIGTERM, and wants to leave
    abort (generation) -------------------->     stops
      <------------------------------ acknowledged, failed (error), or done (report)
    exit ---------------------------------->     ends

A death says itself: by the process's sentinel. That it gets on is in its pulse, and so is what it
leaves for whoever has its rank next.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

from dmlf.errors import CollectiveAborted, DmlfError, RemoteError
from dmlf.runtime.child import die_with_launcher, load_function
from dmlf.runtime.parcel import receive_parcel
from dmlf.runtime.pulse import Pulse

JOINED, RESUMED, FIRED = "joined", "resumed", "fired"
RECORDED, SAVED, LEAVING, WANTED = "recorded", "saved", "leaving", "wanted"
ACKNOWLEDGED, FAILED, DONE = "acknowledged", "failed", "done"

IDLE_S = 0.25
"""How often a member that has nothing to do looks whether it shall leave."""


@dataclass(frozen=True, slots=True)
class StartOrder:
    """Run `generation` as `rank` of a group with `world_size` workers, over `endpoint`.

    trust_memory: whether what this process holds may be used. notes: what members of this rank
    have noted, by name. struck: numbers of the faults that need not be injected again. saved: the
    step of the last checkpoint that the run has saved, wherever that is.
    """

    generation: int
    rank: int
    world_size: int
    endpoint: Any
    trust_memory: bool
    notes: Mapping[str, Any] = field(default_factory=dict)
    struck: frozenset[int] = frozenset()
    saved: int | None = None


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


class Voice:
    """Says things to the launcher; from any thread, one at a time."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._turn = threading.Lock()
        self._leaves = False

    def say(self, kind: str, generation: int, value: Any = None) -> None:
        with self._turn:
            self._pipe.send((kind, generation, value))

    def leave(self) -> None:
        """Have it said soon that this process wants to leave; a signal may come at any moment."""
        self._leaves = True

    def tell_wish(self) -> None:
        if self._leaves:
            self._leaves = False
            self.say(LEAVING, 0)


class Line:
    """The member's end of the pipe, for one generation."""

    def __init__(self, pipe: Connection, pulse: Pulse, voice: Voice, generation: int) -> None:
        self._pipe = pipe
        self._pulse = pulse
        self._voice = voice
        self._generation = generation
        self._orders = select.poll()  # Connection.poll makes a selector each time, for every step
        self._orders.register(pipe.fileno(), select.POLLIN)

    def check(self) -> None:
        """Raise CollectiveAborted if the launcher has ordered this generation to stop.

        Called in every slice of a wait, it says besides that this rank looks after its waiting.
        """
        self.beat()
        self._look()

    def beat(self) -> None:
        """Say that this rank looks after its waiting, and look for no order."""
        self._pulse.beat()

    def begin(self, step: int) -> None:
        """The same before `step`: that it is begun says that this rank gets on."""
        self._pulse.stepped(step)
        self._look()

    def _look(self) -> None:
        self._voice.tell_wish()
        while self._orders.poll(0):
            order = receive_parcel(self._pipe)
            if isinstance(order, AbortOrder) and order.generation == self._generation:
                raise CollectiveAborted(order.generation)

    def resumed(self, step: int, source: str) -> None:
        """Tell that training goes on after `step` steps."""
        self._pulse.stepped(step)
        self._voice.say(RESUMED, self._generation, (step, source))

    def fired(self, fault: int) -> None:
        """Tell that the fault of this number strikes now."""
        self._voice.say(FIRED, self._generation, (fault, time.monotonic()))

    def note(self, notes: Mapping[str, Any]) -> None:
        """Leave things for the next member of this rank; each replaces what has had its name."""
        self._pulse.note(notes)

    def record(self, step: int, record: Mapping[str, Any]) -> None:
        """Tell what this rank does in `step`."""
        self._voice.say(RECORDED, self._generation, (step, record))

    def saved(self, step: int) -> None:
        """Tell that the checkpoint after `step` steps is durable; from any thread."""
        self._voice.say(SAVED, self._generation, step)

    def leave(self) -> None:
        """Ask to leave, as SIGTERM does."""
        self._voice.leave()

    def want(self, workers: int) -> None:
        """Ask for so many workers more."""
        self._voice.say(WANTED, self._generation, workers)

    def hold(self, timeout_s: float) -> None:
        """Wait for the order to stop, which ends this as CollectiveAborted; not for ever."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            self._orders.poll(int(IDLE_S * 1000))


def run_member(
    rank: int,
    server: int | None,
    program: str,
    argument: Any,
    pipe: Connection,
    pulse: Pulse,
    leaves: bool,
) -> None:
    """Make the program, `module:function` of (server, argument), and run it as ordered.

    rank: the place that it is meant to take. server: which one, or None for a worker. leaves:
    SIGTERM asks to be let go after the step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    voice = Voice(pipe)
    if leaves:
        signal.signal(signal.SIGTERM, lambda *_: voice.leave())
    die_with_launcher()
    try:
        made: Program = load_function(program)(server, argument)
    except Exception as error:
        voice.say(FAILED, 0, typed(rank, error))
        receive_parcel(pipe)
        os._exit(1)
    try:
        voice.say(JOINED, 0)
        while True:
            while not pipe.poll(IDLE_S):
                voice.tell_wish()
            order = receive_parcel(pipe)
            if isinstance(order, ExitOrder):
                return
            if isinstance(order, AbortOrder):  # it crossed this member's own word on its way
                voice.say(ACKNOWLEDGED, order.generation)
            elif isinstance(order, StartOrder):
                voice.say(*_outcome(order, Line(pipe, pulse, voice, order.generation), made.run))
    except (EOFError, ConnectionError):  # the launcher is gone: there is nobody to tell
        os._exit(1)


def _outcome(
    order: StartOrder, line: Line, run: Callable[[StartOrder, Line], Any]
) -> tuple[str, int, Any]:
    try:
        return DONE, order.generation, run(order, line)
    except CollectiveAborted:
        return ACKNOWLEDGED, order.generation, None
    except Exception as error:
        return FAILED, order.generation, typed(order.rank, error)


def typed(rank: int, error: Exception) -> DmlfError:
    """The error as it can travel: dmlf's own as it is, any other as a RemoteError."""
    if isinstance(error, DmlfError):
        return error.with_traceback(None)  # its frames would keep the generation's memory alive
    text = "".join(traceback.format_exception(error))
    return RemoteError(rank, f"{type(error).__name__}: {error}", text)
