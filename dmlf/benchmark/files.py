"""Files that are whole or absent, and JSON that means one thing only.

Writing goes to a temporary file beside the target, is flushed to disk, and is then renamed, so
that a reader never sees half a file. Reading refuses what JSON leaves open: NaN and infinities,
duplicate keys, numbers too large for a float, and documents too deep or too large to be ours.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any, NoReturn

from dmlf.errors import MetricsError

MAX_BYTES = 256 << 20
MAX_DEPTH = 32

# A string (also one that the end of the file cuts off) or a bracket; linear in the text's length.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


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
    with one valid document nested at most MAX_DEPTH deep, and FileNotFoundError when absent.
    """
    name = str(path)
    text = _read_text(path)
    _check_depth(name, text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise MetricsError(name, key, "the key stands twice in one object")
            found[key] = value
        return found

    def constant(token: str) -> NoReturn:
        raise MetricsError(name, "content", f"{token} is not JSON; numbers must be finite")

    def number(token: str) -> float:
        value = float(token)
        if not math.isfinite(value):
            raise MetricsError(name, "content", f"the number {token[:40]} is not finite")
        return value

    try:
        return json.loads(
            text, object_pairs_hook=unique, parse_constant=constant, parse_float=number
        )
    except ValueError as error:
        raise MetricsError(name, "content", f"not valid JSON: {error}") from error


def _read_text(path: str | Path) -> str:
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
            content = stream.read()
    finally:
        os.close(descriptor)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MetricsError(str(path), "content", f"not UTF-8: {error}") from error


def _check_depth(name: str, text: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MetricsError(name, "content", f"nested deeper than {MAX_DEPTH} levels")
        elif token in "]}":
            depth -= 1
