"""Folders for a run's small files: removed at its end, or by the next run if it was killed.

A folder is locked by the process that uses it, and the kernel frees the lock when that ends,
however it does. So a folder of this user that nobody has locked is of no use to anybody. A new one
has another name until it is locked, so that nobody finds it unlocked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "dmlf-scratch-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, of this user alone; first removes those whose processes were killed."""
    _remove_abandoned()
    new = Path(tempfile.mkdtemp(prefix="dmlf-new-"))
    lock = _lock(new)
    folder = new.rename(new.with_name(new.name.replace("dmlf-new-", _PREFIX)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or gone meanwhile
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """The descriptor that holds the lock of `folder`; None if another process has it."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder, flags)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
