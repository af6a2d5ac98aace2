"""Ranks that are told what to do next while they run, and block in a read until they are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any

from dmlf.errors import PeerLost
from dmlf.runtime.fork_server import EXIT_S
from dmlf.runtime.launch import StartedRanks, started_ranks

END = None
"""What a rank hears when there is nothing more to do: it returns from its program."""


class Conversation:
    """The launcher's side. Every wait ends after `timeout_s` seconds with PeerLost."""

    def __init__(self, ranks: StartedRanks, pipes: Sequence[Connection], timeout_s: float) -> None:
        self._ranks = ranks
        self._pipes = pipes
        self._timeout_s = timeout_s

    def ask(self, question: Any, ranks: Iterable[int]) -> list[Any]:
        """Send `question` to some ranks at once; return their answers in the order of `ranks`.

        Raises the first failure of any rank, asked or not.
        """
        asked = list(ranks)
        for rank in asked:
            self._tell(rank, question)
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + self._timeout_s
        # An end of file here is explained by the pipe of results, which is looked at as well.
        waiting: dict[Any, int] = {self._pipes[rank]: rank for rank in asked}
        failures: dict[Any, int] = {pipe: rank for rank, pipe in enumerate(self._ranks.pipes)}
        while len(answers) < len(asked):
            ready = wait([*failures, *waiting], max(0.0, deadline - time.monotonic()))
            for pipe in ready:
                if pipe in failures:
                    self._ranks.result(failures[pipe])
                    raise PeerLost(f"rank {failures[pipe]}", "its program ended before it was told")
            for pipe in ready:
                rank = waiting.pop(pipe)
                try:
                    answers[rank] = self._pipes[rank].recv()
                except EOFError:
                    continue
            if not ready:
                silent = sorted(waiting.values())
                raise PeerLost(f"rank {silent[0]}", f"no answer within {self._timeout_s:g} s")
        return [answers[rank] for rank in asked]

    def end(self) -> list[Any]:
        """Let all ranks return from their programs; return their results."""
        for rank in range(len(self._pipes)):
            self._tell(rank, END)
        deadline = time.monotonic() + self._timeout_s
        results = []
        for rank, pipe in enumerate(self._ranks.pipes):
            if not wait([pipe], max(0.0, deadline - time.monotonic())):
                raise PeerLost(f"rank {rank}", f"did not end within {self._timeout_s:g} s")
            results.append(self._ranks.result(rank))
            self._ranks.processes[rank].join(EXIT_S)
        return results

    def _tell(self, rank: int, message: Any) -> None:
        try:
            self._pipes[rank].send(message)
        except BrokenPipeError:
            self._ranks.result(rank)
            raise


@contextmanager
def converse(
    context: ForkServerContext, program: str, arguments: Sequence[Any], timeout_s: float
) -> Iterator[Conversation]:
    """Start `program(rank, (argument, pipe))` in one process per argument, to be talked to.

    program: `package.module:function`; it reads a message from `pipe`, a Connection, answers each
    with one message, and returns at END. No process outlives this context.
    """
    pairs = [context.Pipe() for _ in arguments]
    try:
        told = [(argument, theirs) for argument, (_, theirs) in zip(arguments, pairs, strict=True)]
        with started_ranks(context, program, told) as ranks:
            for _, theirs in pairs:
                theirs.close()
            yield Conversation(ranks, [ours for ours, _ in pairs], timeout_s)
    finally:
        for pair in pairs:
            for pipe in pair:
                pipe.close()
