"""Ctrl-C at any moment: one line or none, exit code 130, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

DEADLINE_S = 60.0
TRAIN = ["-m", "dmlf", "train", "--algorithm", "ring", "--world-size", "2"]
LONG = ["--epochs", "1000000"]
BLOCKS = "import os, threading\nos.write(1, b'here')\nthreading.Event().wait()\n"


@pytest.fixture
def process(tmp_path: Path, shadowed: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run whose import of the module `shadowed` blocks, in a process group of its own."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / f"{shadowed}.py").write_text(BLOCKS)
    path = os.pathsep.join([str(tmp_path / "first"), os.environ.get("PYTHONPATH", os.getcwd())])
    process = subprocess.Popen(
        [sys.executable, *TRAIN, *LONG],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    yield process
    with suppress(ProcessLookupError):  # as it is after a test that passes
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("shadowed", ["argparse", "torch"], ids=["launcher", "fork server"])
def test_during_the_imports(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert process.stdout is not None
    assert process.stdout.read(4) == b"here"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=DEADLINE_S)
    assert error == b"dmlf: interrupted\n"
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
