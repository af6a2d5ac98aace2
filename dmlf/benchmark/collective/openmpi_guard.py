"""Stands between the launcher and mpirun, so that neither's death leaves anything behind.

argv: a folder, then a command. It runs the command, which ends with it, and ends with the process
that started it. Whatever comes first, the command is ended and the folder removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from dmlf.runtime.child import signal_on_parent_death

_GRACE_S = 2.0


def main() -> int:
    """Run the command; return its exit code."""
    folder, *command = sys.argv[1:]
    # Python answers signals between two instructions: SystemExit unwinds through `finally`.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    launcher = os.getppid()
    signal_on_parent_death(signal.SIGTERM)
    process = None
    try:
        # Were it orphaned before the request reached the kernel, nobody would tell it.
        if os.getppid() == launcher and Path(folder).is_dir():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: signal_on_parent_death(signal.SIGKILL),
            )
            return process.wait()
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if process is not None and process.poll() is None:
            process.terminate()  # mpirun ends its ranks and removes its own files
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()  # and its ranks with it: they ended their lives to its
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
