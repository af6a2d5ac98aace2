"""What runs in a rank's process: the program, tied to the life of its launcher."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from dmlf.errors import DmlfError, RemoteError

_PR_SET_PDEATHSIG = 1
_IMPORTED_BY = os.getpid()  # the fork server, which imports this once for all its ranks


def signal_on_parent_death(number: signal.Signals) -> None:
    """Ask the kernel to send `number` to this process when its parent ends (Linux only)."""
    if os.uname().sysname == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def die_with_launcher() -> None:
    """Make the kernel, or else a thread, end this process when its launcher is gone."""
    signal_on_parent_death(signal.SIGKILL)
    if _IMPORTED_BY not in (os.getpid(), os.getppid()):  # it ended before the kernel was asked
        os._exit(1)
    launcher = parent_process()
    assert launcher is not None

    def watch() -> None:
        # The fork server is this process's parent for the kernel; the sentinel is the launcher's.
        wait([launcher.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


def load_function(path: str) -> Callable[..., Any]:
    """Import `package.module:function`."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def run_child(rank: int, program: str, argument: Any, results: Connection) -> None:
    """Run `program(rank, argument)` and send its result, or the error that ended it.

    dmlf's own errors travel as they are; any other becomes a RemoteError with its traceback.

    An interrupt from the terminal is left to the launcher, which ends all ranks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_launcher()
    try:
        results.send(load_function(program)(rank, argument))
    except Exception as error:
        if not isinstance(error, DmlfError):
            text = "".join(traceback.format_exception(error))
            error = RemoteError(rank, f"{type(error).__name__}: {error}", text)
        results.send(error)
        results.close()
        # Skip the orderly exit: it would wait for queues whose readers are being ended.
        os._exit(1)
