"""A launcher's semaphores are known by their names, as long as they are there."""

from __future__ import annotations

import gc
import os
from multiprocessing import get_context

import pytest

from dmlf.runtime.semaphores import name_semaphores, named_semaphores


@pytest.mark.parametrize("library", ["multiprocessing.synchronize", "joblib"])
def test_a_semaphore_is_named_after_its_launcher_until_it_is_gone(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    name_semaphores()
    before = named_semaphores(os.getpid())  # of other tests, which may go at any time
    lock = get_context("spawn").Lock()
    own = named_semaphores(os.getpid()) - before
    assert len(own) == 1
    assert named_semaphores(os.getpid() + 1) == set()
    del lock
    gc.collect()
    assert not own & named_semaphores(os.getpid())
