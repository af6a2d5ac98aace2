"""Imported by the fork server alone: it clears up after a launcher that was killed."""

from __future__ import annotations

import atexit
import os
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
