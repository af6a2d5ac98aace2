"""A model of a file system that, when the machine goes down, loses all that it may.

Durable is: of a file, its content at its last fsync; of a folder, its entries at its last fsync.
What came later may or may not have reached the disk: of a folder's later changes any subset, in no
order (a rename is one change), and of a file's content nothing, half, all, or all as zeros.
Weaker than ext4, xfs and btrfs, which keep some order (Pillai et al., OSDI 2014, table 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.checkpoint.seam import Operation

Image = tuple[tuple[str, "bytes | Image"], ...]
"""A folder as a crash leaves it: names with contents, sorted."""


class File:
    def __init__(self, content: bytes = b"") -> None:
        self.durable = content
        self.live = content

    def images(self) -> Iterator[bytes]:
        yield self.durable
        if self.live != self.durable:
            yield self.live
            yield self.live[: len(self.live) // 2]
            yield bytes(len(self.live))


class Folder:
    def __init__(self) -> None:
        self.live: dict[str, File | Folder] = {}
        self.durable: dict[str, File | Folder] = {}
        self.pending: list[dict[str, File | Folder | None]] = []

    def change(self, change: dict[str, File | Folder | None]) -> None:
        self.pending.append(change)
        _apply(self.live, change)

    def sync(self) -> None:
        self.durable, self.pending = dict(self.live), []

    def images(self) -> Iterator[Image]:
        for chosen in itertools.product((False, True), repeat=len(self.pending)):
            entries = dict(self.durable)
            for change in itertools.compress(self.pending, chosen):
                _apply(entries, change)
            names = sorted(entries)
            for contents in itertools.product(*(list(entries[name].images()) for name in names)):
                yield tuple(zip(names, contents, strict=True))


def _apply(entries: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    for name, inode in change.items():
        if inode is None:
            entries.pop(name, None)
        else:
            entries[name] = inode


class ModelDisk:
    """The folder `root` and all below it; what is on the real disk now counts as durable."""

    def __init__(self, root: Path) -> None:
        self._path = root
        self.root = _folder_on_disk(root)

    def apply(self, operation: Operation) -> None:
        name, path = operation.name, operation.path
        if name == "sync_folder" and not path.is_relative_to(self._path):
            return  # above the root, which is durable
        if name == "sync_folder":
            self._folder(path).sync()
            return
        parent = self._folder(path.parent)
        if name == "make_folder":
            parent.change({path.name: Folder()})
        elif name == "create":
            parent.change({path.name: File()})
        elif name == "rename":
            assert operation.target is not None
            assert operation.target.parent == path.parent
            parent.change({path.name: None, operation.target.name: parent.live[path.name]})
        elif name in ("unlink", "remove_folder"):
            parent.change({path.name: None})
        else:
            file = parent.live[path.name]
            assert isinstance(file, File)
            if name == "write":
                file.live += operation.content
            else:
                assert name == "sync"
                file.durable = file.live

    def _folder(self, path: Path) -> Folder:
        inode: File | Folder = self.root
        for part in path.relative_to(self._path).parts:
            assert isinstance(inode, Folder)
            inode = inode.live[part]
        assert isinstance(inode, Folder)
        return inode


def _folder_on_disk(path: Path) -> Folder:
    folder = Folder()
    for item in path.iterdir():
        folder.live[item.name] = _folder_on_disk(item) if item.is_dir() else File(item.read_bytes())
    folder.sync()
    return folder


def crash_images(model: ModelDisk, operations: Sequence[Operation]) -> list[set[Image]]:
    """What a crash may leave, after each prefix of the operations: their number plus one sets."""
    found = [set(model.root.images())]
    for operation in operations:
        model.apply(operation)
        found.append(set(model.root.images()))
    return found


def write_image(path: Path, image: Image) -> None:
    """Put an image on the real disk."""
    path.mkdir()
    for name, content in image:
        if isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            write_image(path / name, content)
