"""The names in /dev/shm of a launcher's semaphores, so that those it leaves are known as its own.

The queues and locks of multiprocessing have a name as long as they live. It is drawn at random, and
other programs of the host draw theirs alike.
"""

from __future__ import annotations

import os
from multiprocessing import current_process
from pathlib import Path

_FOLDER = Path("/dev/shm")


def name_semaphores() -> None:
    """From now on, name those of this process, and of processes that it starts, after it."""
    vars(current_process())["_config"]["semprefix"] = f"/dmlf-{os.getpid()}"


def named_semaphores(launcher: int) -> set[str]:
    """The names that there are of this process's.

    joblib, which scikit-learn imports, takes over how they are named, and puts the process's number
    in the same place.
    """
    return {path.name for path in _FOLDER.glob(f"sem.*-{launcher}-*")}
