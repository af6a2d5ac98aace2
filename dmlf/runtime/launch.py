"""Starts the processes of a run, watches over them, and leaves none behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from types import FrameType
from typing import Any

from dmlf.errors import PeerLost
from dmlf.runtime.child import run_child
from dmlf.runtime.fork_server import EXIT_S, Forked
from dmlf.runtime.outcomes import collect
from dmlf.runtime.stop import StopSignal

_OF_EVERY_RANK = ("dmlf.runtime.in_fork_server", "dmlf.runtime.child")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def limit_threads(threads_per_rank: int) -> None:
    """Set the thread variables of this process and of those that it starts."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads_per_rank)


def process_context(preload: Sequence[str], threads_per_rank: int) -> ForkServerContext:
    """A context whose fork server has imported `preload` once, so that ranks start fast.

    Sets the thread variables of this process and of all ranks, whatever they were before:
    workflow engines export their own, and results would depend on them.
    """
    limit_threads(threads_per_rank)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_OF_EVERY_RANK, *preload])
    return context


def run_ranks(
    context: ForkServerContext,
    program: str,
    arguments: Sequence[Any],
    stop: StopSignal | None = None,
) -> list[Any]:
    """Run `program(rank, argument)` in one process per argument; return the results by rank.

    program: `package.module:function`. stop: what the first SIGTERM or SIGINT is handed to, for
    ranks that heed it; any other ends all ranks.
    The first failure ends all ranks and is raised: dmlf's own errors as they are, any other as a
    RemoteError with the rank's traceback, a death without a word as PeerLost. When this returns
    or raises, every process has ended.
    """
    with started_ranks(context, program, arguments, stop) as ranks:
        waiting = {pipe: rank for rank, pipe in enumerate(ranks.pipes)}
        results = collect(
            range(len(arguments)),
            lambda timeout_s: _next_outcomes(ranks, waiting, timeout_s),
        )
        for process in ranks.processes:
            process.join(EXIT_S)
        return results


@dataclass(frozen=True, slots=True)
class StartedRanks:
    """Running ranks and the pipes on which each will send its one result or error, by rank."""

    processes: list[Forked]
    pipes: list[Connection]

    def result(self, rank: int) -> Any:
        """Wait for the rank's result and return it; raise its error, or PeerLost if it died."""
        try:
            result = self.pipes[rank].recv()
        except EOFError:
            raise PeerLost(f"rank {rank}", self.processes[rank].death()) from None
        if isinstance(result, Exception):
            raise result
        return result


@contextmanager
def started_ranks(
    context: ForkServerContext,
    program: str,
    arguments: Sequence[Any],
    stop: StopSignal | None = None,
) -> Iterator[StartedRanks]:
    """Start one process per argument; whatever happens inside, none outlives this context."""
    ranks = StartedRanks([], [])
    with signals(stop):
        try:
            for rank, argument in enumerate(arguments):
                receiver, sender = context.Pipe(duplex=False)
                ranks.pipes.append(receiver)
                with sender:
                    process = Forked(context, rank, run_child, (rank, program, argument, sender))
                ranks.processes.append(process)
            yield ranks
        finally:
            for process in ranks.processes:
                process.kill()
            for process in ranks.processes:
                process.end()
            for pipe in ranks.pipes:
                pipe.close()


def _next_outcomes(
    ranks: StartedRanks,
    waiting: dict[Connection, int],
    timeout_s: float | None,
) -> Iterator[tuple[int, Any]]:
    """The outcomes of ranks that end next; these are taken out of `waiting`."""
    for ready in wait(list(waiting), timeout_s):
        assert isinstance(ready, Connection)
        rank = waiting.pop(ready)
        try:
            yield rank, ranks.result(rank)
        except Exception as error:
            yield rank, error


@contextmanager
def signals(stop: StopSignal | None) -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the ranks are ended before this process is.

    With `stop`, the first signal, SIGINT too, only asks the ranks to stop.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop is not None and not stop.number:
            stop.request(number)
        elif number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        else:
            raise SystemExit(128 + number)

    numbers = [signal.SIGTERM] if stop is None else [signal.SIGTERM, signal.SIGINT]
    if threading.current_thread() is not threading.main_thread():
        yield  # its owner decides about signals
        return
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
