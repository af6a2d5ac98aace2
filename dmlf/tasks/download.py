"""Download of image files through torchvision: verified, then put in place file by file.

Everything happens in a staging folder beside the target. A file appears under its final name
complete and verified or not at all, and one process downloads while the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dmlf.env import require_torchvision
from dmlf.errors import DatasetError

_SOCKET_TIMEOUT_S = 20.0


def download_missing(
    torchvision_class: str,
    names: Sequence[str],
    data_dir: Path,
    verify: Callable[[Path], object],
) -> Path:
    """Return the folder that holds the files `names`, downloading those that are absent.

    The folder is `data_dir/torchvision_class/raw`. Files that are there are never replaced.
    verify: called with the staging folder before anything is put in place; raises DatasetError.
    On error no file was added. Raises DatasetError, DependencyMissing.
    """
    folder = data_dir / torchvision_class / "raw"
    if not _missing(folder, names):
        return folder
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir):
            absent = _missing(folder, names)  # another process may have put them there meanwhile
            if absent:
                _download(torchvision_class, absent, data_dir, folder, verify)
    except OSError as error:
        reason = f"{data_dir} cannot be written: {error.strerror}"
        raise _absent(folder, _missing(folder, names), reason) from error
    return folder


def _download(
    torchvision_class: str,
    names: Sequence[str],
    data_dir: Path,
    folder: Path,
    verify: Callable[[Path], object],
) -> None:
    datasets = require_torchvision().datasets
    staging = data_dir / f".download-{torchvision_class}"
    # Left behind only by a process that was killed: the lock is held, so nobody is using it.
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        try:
            with _socket_timeout(_SOCKET_TIMEOUT_S), _quiet_unless_terminal():
                getattr(datasets, torchvision_class)(staging, download=True)
        # Of any type: torchvision lets through what network, archive and its own reader raise.
        except Exception as error:
            reason = " ".join(f"the download failed ({type(error).__name__}: {error})".split())
            raise _absent(folder, names, reason) from error
        staged = staging / torchvision_class / "raw"
        verify(staged)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(staged / name, folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _missing(folder: Path, names: Sequence[str]) -> list[str]:
    # lexists: a FIFO or a dangling link in a file's place is the reader's to refuse by name.
    return [name for name in names if not os.path.lexists(folder / name)]


def _absent(folder: Path, names: Sequence[str], reason: str) -> DatasetError:
    listed = ", ".join(names)
    return DatasetError(
        str(folder),
        f"{listed} {'is' if len(names) == 1 else 'are'} absent, and {reason}",
        f"put the unpacked files there (or point --data-dir at a folder that holds "
        f"{folder.parent.name}/raw), or run again with a network",
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the host-wide lock of `folder`; the kernel frees it when the process ends."""
    # The folder itself is locked, so that no lock file stays behind.
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _socket_timeout(timeout_s: float) -> Iterator[None]:
    """Bound every network wait: torchvision's own downloads have no timeout."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


@contextlib.contextmanager
def _quiet_unless_terminal() -> Iterator[None]:
    """Drop torchvision's progress bars where nobody watches them."""
    if sys.stderr.isatty():
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
