"""How the processes of ranks are told to copy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
OWN = "glibc.malloc.check=0"
# A launcher of its own: the fork server of the test session was started long ago.
LAUNCHER = """
import os
from dmlf.runtime import process_context, run_ranks

print(*run_ranks(process_context([], 1), "tests.runtime.programs:glibc_tunables", [None, None]))
print(os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.mark.parametrize(
    ("set_by_user", "of_ranks"),
    [(None, "glibc.cpu.x86_non_temporal_threshold=0x1fff00"), (OWN, OWN)],
)
def test_ranks_stream_large_copies_unless_the_user_has_tuned_glibc(
    set_by_user: str | None, of_ranks: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if set_by_user is not None:
        environment["GLIBC_TUNABLES"] = set_by_user
    answer = subprocess.run(
        [sys.executable, "-c", LAUNCHER],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stdout.splitlines() == [f"{of_ranks} {of_ranks}", str(set_by_user)]
