"""dmlf checkpoint show and verify: what they print, and how they exit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmlf.checkpoint import CheckpointStore
from dmlf.cli import main
from tests.checkpoint.snapshots import CONFIG, snapshot


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["checkpoint", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with CheckpointStore(tmp_path, CONFIG) as store:
        for step in (4, 5):
            store.save(snapshot(step, generation=2))
    return tmp_path


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_valid_ones_are_listed_newest_first(
    capsys: pytest.CaptureFixture[str], folder: Path, verb: str
) -> None:
    code, out, err = run(capsys, verb, str(folder))
    assert (code, err) == (0, "")
    first, second, last = out.splitlines()
    assert first.startswith("valid    step-0000000005: step 5, generation 2, config ")
    assert CONFIG.sha256()[:16] in first
    assert "2 files" in first
    assert second.startswith("valid    step-0000000004: ")
    assert last == "2 checkpoints: 2 valid, 0 invalid"


@pytest.mark.parametrize(("verb", "expected"), [("show", 0), ("verify", 1)])
def test_an_invalid_one_is_named_with_its_reason(
    capsys: pytest.CaptureFixture[str], folder: Path, verb: str, expected: int
) -> None:
    with open(folder / "step-0000000005" / "optimizer.safetensors", "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\xff")
    (folder / "step-0000000004" / "new\nline\udcff").touch()
    (folder / "step-\x1b[31m\nvalid\udcff").mkdir()
    code, out, err = run(capsys, verb, str(folder))
    assert (code, err) == (expected, "")
    out.encode("utf-8")
    assert "\x1b" not in out
    first, second, third, last = out.splitlines()
    assert first.startswith("INVALID  step-0000000005: optimizer.safetensors: its SHA-256")
    assert "step-0000000004" in second
    assert r"\x1b" in third
    assert last == "3 checkpoints: 0 valid, 3 invalid"


@pytest.mark.parametrize(("verb", "expected"), [("show", 0), ("verify", 1)])
def test_nothing_to_verify_is_no_success(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str, expected: int
) -> None:
    code, out, _ = run(capsys, verb, str(tmp_path))
    assert (code, out) == (expected, "0 checkpoints: 0 valid, 0 invalid\n")


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_no_folder_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str
) -> None:
    (tmp_path / "file").touch()
    for name in ("absent", "file"):
        code, out, err = run(capsys, verb, str(tmp_path / name))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert str(tmp_path / name) in err


def test_a_folder_that_is_being_written_to_can_be_shown(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    before = sorted(folder.rglob("*"))
    with CheckpointStore(folder, CONFIG):
        assert run(capsys, "verify", str(folder))[0] == 0
    assert sorted(folder.rglob("*")) == before
