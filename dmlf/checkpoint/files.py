"""The file operations by which checkpoints are written and removed, and no others.

Each method is one system call, `sync_folder` three of which one matters. A writer takes them as an
object, so that the crash tests can die before and after each one, and record them in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class DiskFiles:
    """The operations on the real file system. All raise OSError."""

    def make_folder(self, path: Path) -> None:
        """mkdir."""
        os.mkdir(path)

    def create(self, path: Path) -> int:
        """Open a file that must not exist yet for writing, and return its descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o666)

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        """Write a first part of `content`, and return its length in bytes."""
        return os.write(descriptor, content)

    def sync(self, descriptor: int) -> None:
        """Make a file's content durable."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """close."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename within one folder, atomically."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove what is no folder; a link itself, never what it points to."""
        os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        """rmdir: the folder must be empty."""
        os.rmdir(path)

    def sync_folder(self, path: Path) -> None:
        """Make a folder's entries durable: names are data of the folder, not of the file."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


DISK = DiskFiles()


def write_durably(
    path: Path, pieces: Iterable[bytes | memoryview], files: DiskFiles = DISK
) -> None:
    """Write a new file and make its content (not yet its name) durable. Raises OSError.

    A failed fsync is never repeated: the kernel may have dropped the pages that it could not
    write, and a second fsync would report success (Rebello et al., USENIX ATC 2020).
    """
    descriptor = files.create(path)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[files.write(descriptor, rest) :]
        files.sync(descriptor)
    finally:
        files.close(descriptor)


def remove_tree(path: Path, files: DiskFiles = DISK) -> None:
    """Remove a folder with all that is in it, following no link. Raises OSError."""
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(path / entry.name, files)
        else:
            files.unlink(path / entry.name)
    files.remove_folder(path)
