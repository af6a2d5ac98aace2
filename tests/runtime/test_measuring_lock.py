"""Two measured runs never overlap, whatever started them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dmlf.runtime import measuring_lock as module
from dmlf.runtime.measuring_lock import lock_path, measuring_lock

TAKE = (
    "import fcntl, sys; file = open(sys.argv[1]);fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))


def another_process_can_take_it() -> bool:
    command = [sys.executable, "-c", TAKE, str(lock_path())]
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=30).returncode == 0


def test_the_lock_excludes_other_processes_and_is_freed() -> None:
    with measuring_lock() as waited_s:
        assert waited_s >= 0.0
        assert not another_process_can_take_it()
    assert another_process_can_take_it()


def test_an_error_frees_the_lock() -> None:
    with pytest.raises(ValueError, match="planted"), measuring_lock():
        raise ValueError("planted")
    assert another_process_can_take_it()
