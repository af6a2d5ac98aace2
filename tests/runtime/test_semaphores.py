"""A launcher's semaphores are known by their names, as long as they are there."""

from __future__ import annotations

import gc
import os
from multiprocessing import get_context

from dmlf.conformance.leftovers import shared_memory
from dmlf.runtime.semaphores import named_semaphores


def test_a_semaphore_is_named_after_its_launcher_until_it_is_gone() -> None:
    """The fixtures of these tests have them named."""
    before, segments = named_semaphores(os.getpid()), shared_memory()
    lock = get_context("spawn").Lock()
    (name,) = named_semaphores(os.getpid()) - before
    assert name in shared_memory()
    assert named_semaphores(os.getpid() + 1) == set()
    del lock
    gc.collect()
    assert named_semaphores(os.getpid()) == before
    assert name not in segments | shared_memory()
