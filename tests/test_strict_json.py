"""JSON that leaves something open is refused."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest

from dmlf.strict_json import MAX_DEPTH, check, parse


def test_what_is_json_is_read_exactly() -> None:
    text = '{"ü": [1, -0.0, 0.1, 1e-320, null, true, "\\u00e9"], "n": 9007199254740993}'
    assert parse(text.encode()) == {
        "ü": [1, -0.0, 0.1, 1e-320, None, True, "é"],
        "n": 9007199254740993,
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b"[-1e999]", b"9" * 5000,
     b'{"a": 1, "a": 1}', b'[{"b": {"a": 1, "a": 2}}]', b"[" * 100_000, b'{"a":' * 100_000,
     b"1 2", b"'a'", b'"\xff"', b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse(content)


def test_depth_counts_brackets_and_not_texts() -> None:
    parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    parse(json.dumps(["[{" * 1000 + '\\"', '"[' * 500]).encode())
    parse(b"[" + b"[]," * 1000 + b"0]")
    with pytest.raises(ValueError, match="nested deeper"):
        parse(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def nested(depth: int) -> Any:
    return [] if depth == 1 else [nested(depth - 1)]


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(10**4000), 0.1, -0.0, "", "\ud800", [], {}, [[], {}], {"a": {"": [1, "b"]}},
     Number.ONE, nested(MAX_DEPTH), [float("nan")], float("-inf"), {1: 2}, {None: 1}, {"a": {1: 1}},
     (1,), {"a": ()}, {1}, b"x", 1j, object(), nested(MAX_DEPTH + 1), {"a": 1, 1: 2}],
)  # fmt: skip
def test_checked_is_what_would_come_back(value: Any) -> None:
    try:
        comes_back = parse(json.dumps(value).encode()) == value
    except (ValueError, TypeError):
        comes_back = False
    if comes_back:
        check(value)
    else:
        with pytest.raises(ValueError):  # noqa: PT011
            check(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="nested"):
        check(value)
