"""A reader needs no lock: whatever a writer does meanwhile, it finds a whole checkpoint."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
from pathlib import Path

import pytest

from dmlf.checkpoint import CheckpointStore, load, load_checkpoint, load_newest
from tests.checkpoint.snapshots import CONFIG, bits, snapshot

SAVES = 60


def test_the_checkpoint_that_is_about_to_be_read_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CheckpointStore(tmp_path, CONFIG, keep=1) as store:
        store.save(snapshot(1))
        to_come = [2, 3, 4]
        listed = load.candidates

        def overtaken(folder: Path) -> list[str]:
            names = listed(folder)
            if to_come:
                store.save(snapshot(to_come.pop(0)))
            return names

        monkeypatch.setattr(load, "candidates", overtaken)
        loaded = load_newest(tmp_path, CONFIG)
    assert to_come == []
    assert loaded is not None
    assert loaded.rejected == ()
    assert bits(loaded.snapshot) == bits(snapshot(4))


def test_a_state_is_named_after_what_sha256sum_says_of_its_files(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, CONFIG) as store:
        folder = store.save(snapshot(1))
        again = store.save(snapshot(1))
        other = store.save(snapshot(2))
    files = ["parameters.safetensors", "optimizer.safetensors"]
    said = subprocess.run(["sha256sum", *files], cwd=folder, capture_output=True, check=True)
    names = [load_checkpoint(path, CONFIG).manifest.state_sha256 for path in (folder, again, other)]
    assert names[0] == hashlib.sha256(said.stdout).hexdigest()
    assert names[0] == names[1] != names[2]


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
