"""Every command of the tutorials that takes seconds does what the page says it does."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, Block, blocks, matches

TUTORIALS = REPOSITORY / "docs" / "tutorials"
TIMEOUT_S = 300
NEEDS = {
    "researcher": ["snakemake", "torch"],
    "engineer": ["matplotlib", "snakemake", "torch"],
    "own-model": ["torch"],
    "protocol": ["torch"],
    "student": [],
}


def make_checkout(folder: Path, temporary: Path) -> dict[str, str]:
    """Copy what a reader has into `folder`; return the environment that a reader works in.

    temporary: a folder with a short path, whose measuring lock nobody else of this host holds.
    """
    for name in ("Snakefile", "config.yaml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("dmlf", "profiles", "workflow"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    programs = folder / ".bin"
    programs.mkdir()
    for name, module in (("dmlf", "-m dmlf"), ("snakemake", "-m snakemake"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "COLUMNS": "100",
        "TMPDIR": str(temporary),
    }


def run(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """Run a block's commands as one script; return what they print."""
    script = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with script:
        try:
            output, _ = script.communicate(timeout=TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)
    failed = script.returncode != 0
    assert failed == (block.mark == "fails"), f"line {block.line}: {block.text}\n{output}"
    return output


@pytest.fixture
def short_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_tutorial_can_be_followed(name: str, tmp_path: Path, short_path: Path) -> None:
    for module in NEEDS[name]:
        pytest.importorskip(module)
    environment = make_checkout(tmp_path, short_path)
    output = None
    for block in blocks((TUTORIALS / f"{name}.md").read_text()):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text)
        elif block.kind == "sh":
            output = None if block.mark.startswith("slow") else run(block, tmp_path, environment)
        elif block.kind == "text" and output is not None:
            said = f"line {block.line}: expected\n{block.text}\n{output}"
            assert matches(block.text, output), said


def test_every_tutorial_is_followed() -> None:
    assert sorted(NEEDS) == sorted(page.stem for page in TUTORIALS.glob("*.md"))


@pytest.mark.parametrize(
    ("expected", "output", "equal"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\nc\n", False),
        ("a ... c\n", "a b c\n", True),
        ("a\n...\n", "a\nb\nc\n", True),
        ("...b\n", "a\nb\n", True),
        ("...b\n", "a\nb\nc\n", False),
        ("1.5 samples\n", "1x5 samples\n", False),
    ],
)
def test_an_output_is_as_shown(expected: str, output: str, equal: bool) -> None:
    assert matches(expected, output) == equal
