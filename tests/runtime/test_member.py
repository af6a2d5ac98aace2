"""The process of a rank whose launcher has gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 60.0
LAUNCHER = """
from dmlf.runtime import process_context
from dmlf.runtime.member import run_member
from dmlf.runtime.pulse import Pulse

context = process_context([], 1)
own, theirs = context.Pipe(duplex=True)
arguments = (0, None, "tests.runtime.test_member:make_nothing", None, theirs, Pulse(), False)
process = context.Process(target=run_member, args=arguments)
process.start()
theirs.close()
own.close()
process.join()
print(process.exitcode)
"""


def make_nothing(server: int | None, argument: Any) -> None:
    """A program that never runs."""


def test_it_ends_without_a_word() -> None:
    # A launcher of its own, whose fork server writes where it does.
    ended = subprocess.run(
        [sys.executable, "-c", LAUNCHER], cwd=ROOT, capture_output=True, timeout=DEADLINE_S
    )
    assert ended.stderr == b""
    assert ended.stdout == b"1\n"
