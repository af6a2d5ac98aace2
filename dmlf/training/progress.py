"""A progress bar over the steps of a run, where somebody is watching."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable

from tqdm import tqdm


def progress(steps: range, rank: int) -> Iterable[int]:
    """Iterate over `steps`; on rank 0, and only on a terminal, draw a bar on standard error."""
    if rank != 0 or not sys.stderr.isatty():
        return steps
    # By default tqdm makes a semaphore shared by processes, which a killed rank would leave behind.
    tqdm.set_lock(threading.RLock())
    return tqdm(steps, unit="step", leave=False)
