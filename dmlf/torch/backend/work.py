"""Handles of operations (torch's Work), and the order in which a group's operations run.

Errors are raised where they happen, or by `wait`: an exception set on a torch future reaches
DDP's reducer as a plain value, which it would take for a gradient.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from queue import SimpleQueue

import torch
import torch.distributed as dist
from torch.futures import Future

from dmlf.errors import GroupClosed, NoAnswer

Tensors = list[torch.Tensor]
_NO_BACKWARD = -1


class FinishedWork(dist.Work):
    """An operation that is over; it was successful, or its call had raised."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        self._tensors = tensors

    def wait(self, timeout: timedelta | None = None) -> bool:
        """True."""
        return True

    def is_completed(self) -> bool:
        """True."""
        return True

    def is_success(self) -> bool:
        """True."""
        return True

    def exception(self) -> None:
        """None."""

    def result(self) -> Tensors:
        """The tensors that hold the result."""
        return self._tensors

    def get_future(self) -> Future[Tensors]:
        """A future that holds `result` already."""
        future: Future[Tensors] = Future()
        future.set_result(self._tensors)
        return future


class PendingWork(dist.Work):
    """An operation that runs, or waits for its turn, on the group's own thread."""

    def __init__(self, run: Callable[[], object], tensors: Tensors) -> None:
        super().__init__()
        self._run = run
        self._tensors = tensors
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._ended: Future[None] = Future()
        # An error that a callback raises is one for C++ too, unlike what is set on the future.
        self._future: Future[Tensors] = self._ended.then(self._outcome)

    def execute(self) -> None:
        """Run the operation, on the group's thread; keep its error for `wait`."""
        try:
            self._run()
        except BaseException as error:
            self._error = error
        self._over.set()
        self._ended.set_result(None)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return when the operation is over; raise what it has raised.

        Without `timeout` this lasts as long as the operation, which keeps that of its group.
        Raises NoAnswer after `timeout`; the operation goes on.
        """
        given_s = 0.0 if timeout is None else timeout.total_seconds()
        if not self._over.wait(given_s if given_s > 0.0 else None):
            raise NoAnswer("the group", given_s, "the operation goes on")
        if self._error is not None:
            raise self._error
        return True

    def is_completed(self) -> bool:
        """Whether it is over."""
        return self._over.is_set()

    def is_success(self) -> bool:
        """Whether it is over, and was successful."""
        return self._over.is_set() and self._error is None

    def exception(self) -> BaseException | None:
        """What it has raised."""
        return self._error

    def result(self) -> Tensors:
        """The tensors that hold the result, once it is over."""
        self.wait()
        return self._tensors

    def get_future(self) -> Future[Tensors]:
        """A future that will hold `result`; of a failed operation it raises RuntimeError."""
        return self._future

    def _outcome(self, _ended: Future[None]) -> Tensors:
        if self._error is not None:
            raise self._error
        return self._tensors


class CallOrder:
    """Runs the collectives of one group one after the other, in the order of their calls.

    At once in the calling thread where the caller waits anyway; on a thread of the group, begun
    with the first one, where the caller wants to go on (`later`). What is called while others
    are outstanding waits behind them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = threading.RLock()
        self._queue: SimpleQueue[PendingWork | None] = SimpleQueue()
        self._last: PendingWork | None = None
        self._thread: threading.Thread | None = None
        self._graph_task = _NO_BACKWARD
        self._in_backward: list[PendingWork] = []
        self._closed = False

    def run(self, call: Callable[[], object], tensors: Tensors, *, later: bool) -> dist.Work:
        """Run `call` in its turn; raises what it raises, unless it runs later.

        The errors of calls that a backward pass makes are raised by the pass itself.
        """
        with self._turn:
            if self._closed:
                raise GroupClosed(self._name)
            if not later and (self._last is None or self._last.is_completed()):
                self._last = None
                call()
                return FinishedWork(tensors)
            work = self._last = PendingWork(call, tensors)
            if later:
                self._join_backward(work)
            self._queue.put(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
        if not later:
            work.wait()
        return work

    def close(self) -> None:
        """Let what was called end, and the thread with it."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            work.execute()

    def _join_backward(self, work: PendingWork) -> None:
        """Let the backward pass that runs, if any, wait for `work` at its end and raise its error.

        DDP's reducer looks at its futures at the end too, but has asked for that later, so what
        reaches it was successful.
        """
        graph_task = torch._C._current_graph_task_id()
        if graph_task == _NO_BACKWARD:
            return
        if graph_task != self._graph_task:
            self._graph_task, self._in_backward = graph_task, []
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(partial(_wait_all, self._in_backward))
        self._in_backward.append(work)


def _wait_all(works: list[PendingWork]) -> None:
    for work in works:
        work.wait()
