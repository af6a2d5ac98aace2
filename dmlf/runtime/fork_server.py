"""Processes forked from multiprocessing's fork server, which may itself be killed or stopped.

The kernel ends them when it ends (see `dmlf.runtime.child`). Who starts a process, or waits for the
end of one, waits for the fork server's word: it is killed if it does not answer in time.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from typing import Any

from dmlf.errors import ConfigError, PeerLost
from dmlf.runtime.copies import streamed_copies

READY_S = 120.0
"""How long a fork server may take to be ready: its imports."""
ANSWER_S = 20.0
"""How long it may take to answer from then on."""
EXIT_S = 20.0
"""How long a process may take to end once it has done its work."""
_MADE_UP = 255
"""The exit code that multiprocessing gives to a process whose fork server has ended."""
_given_up: dict[int, str] = {}  # by id: why a fork server was killed
_ENDING_S = 1.0
"""How long a fork server may take to end once it has closed its pipes."""


class Forked:
    """The process of `rank`, which runs target(*arguments). Raises PeerLost if it cannot be had."""

    _ready: int | None = None  # the fork server that has answered before

    def __init__(
        self,
        context: ForkServerContext,
        rank: int,
        target: Callable[..., None],
        arguments: tuple[Any, ...],
    ) -> None:
        name = f"dmlf-rank-{rank}"
        self._process = context.Process(target=target, args=arguments, name=name)
        _ensure_running()
        self._server = _server()
        try:
            with _answer_within(ANSWER_S if Forked._ready == self._server else READY_S):
                self._process.start()
        except (EOFError, ConnectionError, FileNotFoundError):
            # Without its socket it is of no use either; the next process comes from another.
            _kill(self._server)
            detail = _ended(self._server, ANSWER_S)
            raise PeerLost(f"rank {rank}", f"{detail} before it could start this rank") from None
        except (KeyboardInterrupt, SystemExit):
            if Forked._ready != self._server:  # its imports may take long, and nobody waits for it
                _kill(self._server)
            raise
        Forked._ready = self._server

    @property
    def sentinel(self) -> int:
        """Ready for reading once the process or its fork server has ended."""
        return self._process.sentinel

    @property
    def has_lost_its_server(self) -> bool:
        """Of a process that has ended: whether its fork server did, and with it all it started."""
        made_up = self._process.exitcode == _MADE_UP
        return made_up and _ended(self._server, _ENDING_S) is not None

    def shares_its_server(self, other: Forked) -> bool:
        """Whether both came from one fork server."""
        return self._server == other._server

    def kill(self) -> None:
        """Send SIGKILL, unless it is known to have ended."""
        self._process.kill()

    def join(self, timeout_s: float) -> None:
        """Wait for its end, and no longer than that."""
        self._process.join(timeout_s)

    def end(self) -> None:
        """Kill it, and wait until it has ended."""
        self.kill()
        with _answer_within(ANSWER_S):
            self._process.join()

    def death(self) -> str:
        """How it ended, without a word."""
        with _answer_within(ANSWER_S):
            self._process.join()
        code = self._process.exitcode
        ended = _ended(self._server, _ENDING_S) if code == _MADE_UP else None
        if ended is not None:
            return f"{ended}, and with it all ranks that it had started"
        return death(code)


def death(exitcode: int | None) -> str:
    """How a process ended that said nothing."""
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"its process ended with exit code {exitcode} before it had a result"


def _ensure_running() -> None:
    """Start the fork server with SIGINT blocked, until it ignores it (see `in_fork_server`).

    Raises ConfigError where the temporary folder's path leaves no room for a socket's name.
    """
    resource_tracker.ensure_running()  # else the fork server would start it, which unblocks SIGINT
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with streamed_copies():
            forkserver.ensure_running()
    except OSError as error:
        if error.errno is not None:  # which says what is wrong, and with what
            raise
        folder = tempfile.gettempdir()
        raise ConfigError("TMPDIR", folder, f"a folder with a shorter path ({error})") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _server() -> int:
    pid: int = vars(forkserver._forkserver)["_forkserver_pid"]
    return pid


def _ended(server: int, timeout_s: float = 0.0) -> str | None:
    """How this fork server has ended; None if it lives on. It is not reaped."""
    ended = _given_up.get(server, "the fork server has ended")
    try:
        handle = os.pidfd_open(server)
    except ProcessLookupError:  # reaped, as another one was to be started
        return ended
    try:
        if not wait([handle], timeout_s):
            return None
    finally:
        os.close(handle)
    with suppress(ChildProcessError):
        status = os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is not None and server not in _given_up and status.si_code != os.CLD_EXITED:
            return f"the fork server was killed by {signal.Signals(status.si_status).name}"
    return ended


def _kill(server: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(server, signal.SIGKILL)


@contextmanager
def _answer_within(timeout_s: float) -> Iterator[None]:
    """Kill the fork server if what is inside, which waits for its word, takes longer than that."""

    def give_up() -> None:
        server = _server()
        _given_up[server] = f"the fork server did not answer within {timeout_s:g} s and was killed"
        _kill(server)

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
