"""JSON that means one thing only."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def parse(content: bytes) -> Any:
    """Return the one value of a JSON document in UTF-8.

    Raises ValueError on what JSON leaves open: duplicate keys, NaN, infinities, numbers too large
    for a float, documents nested too deep to be ours.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


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
