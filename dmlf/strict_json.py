"""JSON that means one thing only: the one reader of what comes from a disk or a network."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 32

# A string (also one that the end of the text cuts off) or a bracket; linear in the text's length.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def parse(content: bytes) -> Any:
    """Return the one value of a JSON document in UTF-8.

    Raises ValueError on what JSON leaves open: duplicate keys, NaN, infinities, numbers too large
    for a float, and documents nested deeper than MAX_DEPTH. Cost: linear in the length.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from None
    _check_depth(text)
    return json.loads(
        text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
    )


def check(value: Any, max_depth: int = MAX_DEPTH) -> None:
    """Raise ValueError unless `parse` would give `value` back, once json has written it down.

    As parsing it would, but without writing: for what is written often. Cost: linear.
    """
    if isinstance(value, dict | list):
        if max_depth == 0:
            raise ValueError("nested too deep")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise ValueError(f"a key is no text: {key!r:.80}")
            value = value.values()
        for item in value:
            check(item, max_depth - 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not JSON; numbers must be finite")
    elif not isinstance(value, str | int | None):
        raise ValueError(f"{type(value).__name__} is not JSON")


def _check_depth(text: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        elif token in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} stands twice in one object")
        found[key] = value
    return found


def _no_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON; numbers must be finite")


def _finite(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise ValueError(f"the number {token[:40]} is not finite")
    return value
