"""Scratch folders are gone with their run, or at the next one if that was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmlf.runtime.scratch import scratch_folder

KEEPS_ONE = """
from dmlf.runtime.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def own_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def user() -> Iterator[subprocess.Popen[str]]:
    """Another process, which uses a scratch folder until it is told to end."""
    program = [sys.executable, "-c", KEEPS_ONE]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def folders(where: Path) -> set[Path]:
    return {path for path in where.iterdir() if path.is_dir()}


def test_it_is_removed_with_all_that_is_in_it(own_tmpdir: Path) -> None:
    with scratch_folder() as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").write_text("x")
        assert folders(own_tmpdir) == {folder}
        assert folder.stat().st_mode & 0o077 == 0
    assert not folders(own_tmpdir)


def test_it_is_removed_after_an_error(own_tmpdir: Path) -> None:
    with pytest.raises(KeyError), scratch_folder():
        raise KeyError
    assert not folders(own_tmpdir)


def test_the_next_run_removes_what_a_killed_one_left(
    own_tmpdir: Path, user: subprocess.Popen[str]
) -> None:
    assert user.stdout is not None
    left = Path(user.stdout.readline().strip())
    with scratch_folder() as folder:
        assert folders(own_tmpdir) == {left, folder}  # it is in use
    user.kill()
    user.wait()
    assert (left / "file").exists()
    with scratch_folder() as folder:
        assert folders(own_tmpdir) == {folder}


def test_what_is_no_folder_of_ours_stays(own_tmpdir: Path) -> None:
    others = own_tmpdir / "others"
    others.mkdir()
    (own_tmpdir / "dmlf-scratch-link").symlink_to(others)
    (own_tmpdir / "dmlf-scratch-file").write_text("x")
    with scratch_folder():
        pass
    assert others.is_dir()
    assert (own_tmpdir / "dmlf-scratch-link").is_symlink()
    assert (own_tmpdir / "dmlf-scratch-file").exists()
