"""Imported first by the fork server, and by it alone.

It leaves an interrupt from the terminal to the launcher, and clears up after one that was killed.
"""

from __future__ import annotations

import atexit
import os
import signal
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path


def _remove_socket(fork_server: int) -> None:
    """Remove the socket and its folder, which a launcher that ends in peace has removed before."""
    if os.getpid() == fork_server:  # and no process that was forked from it
        socket = Path(vars(forkserver._forkserver)["_forkserver_address"])
        with suppress(OSError):
            socket.unlink()
            socket.parent.rmdir()


atexit.register(_remove_socket, os.getpid())
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
