"""docs/failure-matrix.md names every row of the matrix once, and only what exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dmlf.runtime.faults import OF_MEMBERSHIP, FaultKind

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "failure-matrix.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:tests|dmlf/conformance)/[\w/]+\.py::\w+)`", PAGE)))
ROWS = 41


def rows() -> dict[int, str]:
    found = re.findall(r"^\| (\d+) \| .*? \| (.*) \|$", PAGE, flags=re.MULTILINE)
    numbers = [int(number) for number, _ in found]
    assert numbers == list(range(1, ROWS + 1))
    return dict(zip(numbers, (proof for _, proof in found), strict=True))


def test_every_row_is_there_once_with_a_proof_or_a_reason() -> None:
    for number, proof in rows().items():
        assert "`tests/" in proof or "`dmlf/conformance/" in proof or len(proof) > 30, (
            f"row {number} says nothing"
        )


def test_every_test_that_is_named_is_collected() -> None:
    """By pytest itself: a name that no test has is an error, whatever the page says of it."""
    assert len(NAMED) > 100
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *NAMED], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_every_test_is_named_in_full() -> None:
    """No name of a test that the expression above would pass over."""
    assert len(re.findall("::test_", PAGE)) == len(
        re.findall(r"`(?:tests|dmlf/conformance)/[\w/]+\.py::test_\w+`", PAGE)
    )


def test_every_kind_of_fault_is_in_some_row() -> None:
    named = {
        kind
        for proof in rows().values()
        for words in re.findall(r"campaign: ((?:`[\w-]+`(?:, )?)+)", proof)
        for kind in re.findall(r"`([\w-]+)`", words)
    }
    assert named == {kind.value for kind in FaultKind if kind not in OF_MEMBERSHIP}


@pytest.mark.parametrize("module", re.findall(r"`python -m ([\w.]+) \d+`", PAGE))
def test_the_fuzzers_run(module: str) -> None:
    command = [sys.executable, "-m", module, "200"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert "200" in done.stdout
