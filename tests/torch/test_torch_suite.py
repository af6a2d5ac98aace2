"""The tests of process groups that torch ships, over backend `dmlf`; see `suite.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torch.outcomes import DOCUMENT, Outcomes, recorded, render

RECORDED = recorded()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """What became of every test that is known to pass, by name; ranks run each of them anew."""
    program = "import sys; from tests.torch import suite; suite.main(sys.argv[1:])"
    command = [sys.executable, "-c", program, *RECORDED.passed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=ROOT)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    found = {line["name"]: line for line in lines}
    assert found, done.stderr[-2000:]
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RECORDED.passed)
def test_of_torch_passes(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    outcome = outcomes.get(name, {"outcome": "never ended", "reason": ""})
    assert outcome["outcome"] == "passed", outcome["reason"]


def test_the_document_lists_every_test() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(RECORDED)


def test_a_failure_is_seen() -> None:
    lines = [{"name": "test_x", "outcome": "failed", "reason": "AssertionError: no\n"}]
    assert Outcomes.of(lines).failed == {"test_x": "AssertionError: no"}
