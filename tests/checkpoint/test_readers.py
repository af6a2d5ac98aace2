"""A reader needs no lock: whatever a writer does meanwhile, it finds a whole checkpoint."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from dmlf.checkpoint import CheckpointStore, load_newest
from tests.checkpoint.snapshots import CONFIG, bits, snapshot

SAVES = 60


def test_loading_while_another_process_saves_and_removes(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG, keep=1) as store:
        store.save(snapshot(1))
    pid = os.fork()
    if pid == 0:
        try:
            with CheckpointStore(tmp_path, CONFIG, keep=1) as store:
                for step in range(2, SAVES):
                    store.save(snapshot(step))
            os._exit(0)
        finally:
            os._exit(1)
    seen = [1]
    watched = os.pidfd_open(pid)
    try:
        while not select.select([watched], [], [], 0)[0]:
            loaded = load_newest(tmp_path, CONFIG)
            assert loaded is not None
            assert loaded.rejected == ()
            step = loaded.snapshot.state.step
            assert bits(loaded.snapshot) == bits(snapshot(step))
            seen.append(step)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(watched)
        status = os.waitpid(pid, 0)[1]
    assert status == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, "the reader never met the writer"
    loaded = load_newest(tmp_path, CONFIG)
    assert loaded is not None
    assert loaded.snapshot.state.step == SAVES - 1
