"""The real file operations, watched: they die at a chosen call, or are written down."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmlf.checkpoint.files import DiskFiles

OPERATIONS = (
    "make_folder",
    "create",
    "write",
    "sync",
    "close",
    "rename",
    "unlink",
    "remove_folder",
    "sync_folder",
)


class WatchedFiles(DiskFiles):
    """Calls `before` and `after` around each operation, with its name and arguments."""

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        """To be overridden."""

    def after(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        """To be overridden."""


def _watched(name: str) -> Callable[..., Any]:
    real = getattr(DiskFiles, name)

    def operation(self: WatchedFiles, *arguments: Any) -> Any:
        self.before(name, arguments)
        result = real(self, *arguments)
        self.after(name, arguments, result)
        return result

    return operation


for _name in OPERATIONS:
    setattr(WatchedFiles, _name, _watched(_name))


class DyingFiles(WatchedFiles):
    """Kills its own process just before, or just after, the n-th operation (from 0)."""

    def __init__(self, n: int, after: bool) -> None:
        self._left = n
        self._after = after

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        if self._left == 0 and self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


@dataclass(frozen=True)
class Operation:
    """One operation as it was done: paths, and for a write the bytes that were taken."""

    name: str
    path: Path
    target: Path | None = None
    content: bytes = b""


class RecordingFiles(WatchedFiles):
    """Writes down every operation that changes what a crash may leave."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._open: dict[int, Path] = {}

    def after(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        if name == "create":
            self._open[result] = arguments[0]
            self.operations.append(Operation(name, arguments[0]))
        elif name == "write":
            taken = bytes(arguments[1][:result])
            self.operations.append(Operation(name, self._open[arguments[0]], content=taken))
        elif name == "sync":
            self.operations.append(Operation(name, self._open[arguments[0]]))
        elif name == "close":
            del self._open[arguments[0]]
        else:
            self.operations.append(Operation(name, *arguments))
