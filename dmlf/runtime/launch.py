"""Starts the processes of a run, watches over them, and leaves none behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from dmlf.errors import PeerLost, TransportError
from dmlf.runtime.child import run_child

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


CAUSE_S = 1.0
"""How long the launcher looks for what is behind a rank's loss of its peer."""


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
    context.set_forkserver_preload(["dmlf.runtime.child", *preload])
    return context


def run_ranks(context: ForkServerContext, program: str, arguments: Sequence[Any]) -> list[Any]:
    """Run `program(rank, argument)` in one process per argument; return the results by rank.

    program: `package.module:function`.
    The first failure ends all ranks and is raised: dmlf's own errors as they are, any other as a
    RemoteError with the rank's traceback, a death without a word as PeerLost. When this returns
    or raises, every process has ended.
    """
    processes: list[ForkServerProcess] = []
    pipes: list[Connection] = []
    with _terminate_as_interrupt():
        try:
            for rank, argument in enumerate(arguments):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=run_child,
                    args=(rank, program, argument, sender),
                    name=f"dmlf-rank-{rank}",
                )
                process.start()
                sender.close()
                processes.append(process)
                pipes.append(receiver)
            results = _collect(processes, pipes)
            for process in processes:
                process.join()
            return results
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
            for pipe in pipes:
                pipe.close()


def _collect(processes: Sequence[ForkServerProcess], pipes: Sequence[Connection]) -> list[Any]:
    """Wait for one result per rank; raise the cause of the first failure."""
    results: dict[int, Any] = {}
    waiting = {pipe: rank for rank, pipe in enumerate(pipes)}
    while waiting:
        for rank, result in _next_results(processes, waiting, None):
            if isinstance(result, Exception):
                raise _cause(rank, result, processes, waiting)
            results[rank] = result
    return [results[rank] for rank in range(len(processes))]


def _cause(
    rank: int,
    failure: Exception,
    processes: Sequence[ForkServerProcess],
    waiting: dict[Connection, int],
) -> Exception:
    """What made `rank` fail: it may miss a peer before the launcher sees how that one ended."""
    deadline = time.monotonic() + CAUSE_S
    while _is_echo(rank, failure) and waiting:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0.0:
            break
        for other, result in _next_results(processes, waiting, remaining_s):
            if isinstance(result, Exception) and not _is_echo(other, result):
                return result
    return failure


def _is_echo(rank: int, failure: Exception) -> bool:
    """Whether `rank` only reports that it could not reach another one."""
    lost = failure.peer if isinstance(failure, PeerLost) else None
    return isinstance(failure, TransportError) and lost != f"rank {rank}"


def _next_results(
    processes: Sequence[ForkServerProcess],
    waiting: dict[Connection, int],
    timeout_s: float | None,
) -> Iterator[tuple[int, Any]]:
    """The next results, or errors in their place, of ranks in `waiting`, which are taken out."""
    for pipe in wait(list(waiting), timeout_s):
        assert isinstance(pipe, Connection)
        rank = waiting.pop(pipe)
        try:
            yield rank, pipe.recv()
        except EOFError:
            processes[rank].join()
            yield rank, PeerLost(f"rank {rank}", _death(processes[rank].exitcode))


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"its process ended with exit code {exitcode} before it had a result"


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the ranks are ended before this process is."""

    def interrupt(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: its owner decides about signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
