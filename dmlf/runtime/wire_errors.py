"""Errors as plain values, to travel between hosts."""

from __future__ import annotations

from typing import Any

from dmlf import errors
from dmlf.errors import DmlfError, RemoteError

_PLAIN = (str, int, float, bool, type(None))


def error_to_plain(error: DmlfError) -> dict[str, Any]:
    """Type, message and fields of `error`; a field that is no plain value becomes its text."""
    fields = {
        name: value if _is_plain(value) else str(value)
        for name, value in vars(error).items()
        if not name.startswith("_")
    }
    return {"type": type(error).__name__, "message": str(error), "fields": fields}


def _is_plain(value: object) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, list) and all(map(_is_plain, value)))


def error_from_plain(values: dict[str, Any]) -> DmlfError:
    """The error that `error_to_plain` described; of a type unknown here, a RemoteError."""
    kind = getattr(errors, str(values["type"]), None)
    if not (isinstance(kind, type) and issubclass(kind, DmlfError)):
        return RemoteError(-1, str(values["message"]), "")
    error: DmlfError = kind.__new__(kind)
    error.args = (str(values["message"]),)
    vars(error).update(values["fields"])
    return error
