"""A member of a group whose own code is on the stack: user code, which asks when it can go on.

`member.run_member` calls a program for every generation. A user's script is called once, and comes
by itself to the places where a generation can begin and end. So orders are taken by a thread:

    launcher                                     seat
      <------------------------------ joined     `next`: the code wants to be in a group
    start (generation, rank, endpoint) ---->     `next` returns; later the code says `enter`
      <------------------------------ resumed    it has the state, and trains
    abort (generation) -------------------->     `check` raises; outside of `enter` the thread
      <------------------------------ acknowledged, failed (error)       answers by itself,
                                                 unless the code is in a call of the group
      <------------------------------ done       `done`: this one is through
    finish -------------------------------->     all are: from now on the first failure ends all
      <------------------------------ returned (result) or failed (error)

A stuck training is seen by its pulse, which only `check` beats in it; outside the thread does.
A call outside ends by an error that nothing mends, and the process with it: its end is the answer.
Were it to answer before, its end would be one more failure, of the generation after.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from dmlf.errors import CollectiveAborted, DmlfError, RemoteError
from dmlf.runtime import member as words
from dmlf.runtime.child import die_with_launcher, load_function
from dmlf.runtime.driver import SLICE_S
from dmlf.runtime.member import IDLE_S, AbortOrder, ExitOrder, StartOrder, Voice, typed
from dmlf.runtime.parcel import receive_parcel
from dmlf.runtime.pulse import Pulse

RETURNED = "returned"
_CALL_S = 4 * SLICE_S
"""After which time code that is in a call has looked for orders."""


@dataclass(frozen=True, slots=True)
class FinishOrder:
    """All members are done."""


class Dismissed(BaseException):
    """The launcher lets this process go; no error, so that no `except Exception` keeps it."""


class Seat:
    """The process's end of the pipe to its launcher, from its start to its end."""

    def __init__(self, rank: int, pipe: Connection, pulse: Pulse, voice: Voice) -> None:
        self.rank = rank  # of the last generation, or the one that it is meant to be
        self._pipe = pipe
        self._pulse = pulse
        self._voice = voice
        self._orders: SimpleQueue[StartOrder | ExitOrder | FinishOrder] = SimpleQueue()
        self._turn = threading.Lock()
        self._again: StartOrder | None = None  # one that came where `done` waited
        self._has_joined = False
        self._generation = -1  # the last one that was begun here
        self._aborted = -1  # the last one that was to stop
        self._abort = threading.Event()
        self._raised = threading.Event()  # in a call outside
        self._inside = False
        self._waits = False  # for an order, and is in no call
        self.is_finished = False
        threading.Thread(target=self._listen, name="dmlf-seat", daemon=True).start()

    @property
    def is_inside(self) -> bool:
        """Whether the code answers for its generation itself."""
        return self._inside

    @property
    def is_stale(self) -> bool:
        """Whether the generation that was begun here has been stopped."""
        return self._aborted >= self._generation

    def next(self) -> StartOrder:
        """Wait until a generation begins. Raises Dismissed."""
        if not self._has_joined:
            self._has_joined = True
            self._voice.say(words.JOINED, 0)
        while True:
            order, self._again = self._again or self._next_order(), None
            if not isinstance(order, StartOrder):
                raise Dismissed
            with self._turn:
                self._generation, self.rank = order.generation, order.rank
                if not self.is_stale:
                    self._abort.clear()
                    self._raised.clear()
                    return order

    def enter(self) -> None:
        """From now on this code answers for its generation. Raises CollectiveAborted as `check`."""
        with self._turn:
            self._inside = True
        self.check()

    def check(self) -> None:
        """Raise CollectiveAborted if the launcher has ordered this generation to stop."""
        self._pulse.beat()
        if self.is_stale:
            if not self._inside:
                self._raised.set()
            raise CollectiveAborted(self._generation)

    def resumed(self, step: int, source: str) -> None:
        """Tell that training goes on after `step` steps, with the state of `source`."""
        self._pulse.stepped(step)
        self._voice.say(words.RESUMED, self._generation, (step, source))

    def stepped(self, done: int) -> None:
        """`done` steps are done."""
        self._pulse.stepped(done)

    def hold(self, timeout_s: float) -> None:
        """Give the launcher the time to order a stop, if another one is the cause of a failure."""
        self._abort.wait(timeout_s)

    def stopped(self, error: DmlfError) -> None:
        """Tell that this one has stopped: as it was told to, or because of `error`."""
        with self._turn:
            self._inside = False
            if self.is_stale:
                self._voice.say(words.ACKNOWLEDGED, self._generation)
            else:
                self._aborted = self._generation
                self._voice.say(words.FAILED, self._generation, error.with_traceback(None))

    def done(self) -> bool:
        """Wait until all are done; False if `next` is to begin anew. Raises Dismissed."""
        with self._turn:
            self._inside = False
            if self.is_stale:
                self._voice.say(words.ACKNOWLEDGED, self._generation)
            else:
                self._voice.say(words.DONE, self._generation)
        order = self._next_order()
        if isinstance(order, ExitOrder):
            raise Dismissed
        self.is_finished = isinstance(order, FinishOrder)
        self._again = order if isinstance(order, StartOrder) else None
        return self.is_finished

    def end(self, result: Any) -> None:
        """Tell what the code has returned, once all are done."""
        if not self.is_finished:
            if not self._has_joined:
                self.next()
            if not self.done():
                lacks = (
                    "a rank was lost, and its script has no @dmlf.elastic function to go back to"
                )
                self.fail(RemoteError(self.rank, lacks, ""))
        self._voice.say(RETURNED, self._generation, result)

    def fail(self, error: DmlfError) -> None:
        """Tell that the code has failed, and wait for the end."""
        with self._turn:
            self._inside = False
            self._voice.say(words.FAILED, self._generation, error)
        while True:
            self._orders.get()

    def _next_order(self) -> StartOrder | ExitOrder | FinishOrder:
        self._waits = True
        try:
            return self._orders.get()
        finally:
            self._waits = False

    def _listen(self) -> None:
        try:
            while True:
                while not self._pipe.poll(IDLE_S):
                    self._voice.tell_wish()
                    if not self._inside:
                        self._pulse.beat()
                order = receive_parcel(self._pipe)
                if not isinstance(order, AbortOrder):
                    self._orders.put(order)
                    continue
                with self._turn:
                    self._aborted = max(self._aborted, order.generation)
                    self._abort.set()
                if self._inside or (not self._waits and self._raised.wait(_CALL_S)):
                    continue  # the code answers itself, by its end if by nothing else
                with self._turn:
                    if not self._inside:
                        self._voice.say(words.ACKNOWLEDGED, order.generation)
        except (EOFError, OSError):
            return  # the launcher is gone, and this process with it


def run_seated(
    rank: int,
    _server: int | None,
    program: str,
    argument: Any,
    pipe: Connection,
    pulse: Pulse,
    leaves: bool,
) -> None:
    """Call the program, `module:function`, with (seat, argument), once.

    As `member.run_member` otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    voice = Voice(pipe)
    if leaves:
        signal.signal(signal.SIGTERM, lambda *_: voice.leave())
    die_with_launcher()
    seat = Seat(rank, pipe, pulse, voice)
    try:
        seat.end(load_function(program)(seat, argument))
    except Dismissed:
        return
    except CollectiveAborted:
        os._exit(1)  # where nothing recovers: a new process begins anew
    except Exception as error:
        seat.fail(typed(seat.rank, error))
