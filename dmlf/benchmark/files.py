"""Files that are whole or absent, and read strictly.

Writing goes to a temporary file beside the target, is flushed to disk, and is then renamed, so
that a reader never sees half a file. Reading takes regular files of a bounded size, and JSON that
leaves nothing open (`dmlf.strict_json`).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from dmlf import strict_json
from dmlf.errors import MetricsError

MAX_BYTES = 256 << 20


def write_text(path: str | Path, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8) in one step; its folder is made if absent.

    On any error the file is as it was and no temporary file is left. Raises OSError, also where
    something other than a file stands there: renaming would replace a device such as /dev/null.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace the file at `path` by `content` in one step, as `write_text` does."""
    target = Path(path)
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "is not a regular file; name another", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable: a directory entry is data of its own."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: object) -> None:
    """Write plain values as JSON in one step; one line per key, lists of numbers on one line.

    Raises MetricsError when a value is NaN, infinite or not JSON, and OSError.
    """
    try:
        text = _encode(value, "") + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise MetricsError(str(path), "content", f"cannot be written as JSON: {error}") from error
    write_text(path, text)


def _encode(value: object, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys must be strings, not {key!r}")
        items = [f"{deeper}{json.dumps(k)}: {_encode(v, deeper)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(v, dict | list | tuple) for v in value):
        return "[\n" + ",\n".join(deeper + _encode(v, deeper) for v in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file, read strictly.

    Raises MetricsError, naming the path, for anything but a regular file of at most MAX_BYTES
    with one document that `strict_json` takes, and FileNotFoundError when absent.
    """
    try:
        return strict_json.parse(_read(path))
    except ValueError as error:
        raise MetricsError(str(path), "content", f"not valid JSON: {error}") from None


def _read(path: str | Path) -> bytes:
    # O_NONBLOCK: a FIFO in the file's place must not block the reader for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MetricsError(str(path), "content", "not a regular file")
        if status.st_size > MAX_BYTES:
            raise MetricsError(
                str(path), "content", f"{status.st_size} bytes; at most {MAX_BYTES} are read"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(descriptor)
