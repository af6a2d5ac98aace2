"""Markdown that no text from a run can break: cells, code, tables, foldable parts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dmlf.benchmark.table import clean_text

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
_PLAIN_CODE = re.compile(r"[A-Za-z0-9 _.,:;/=+@%'\"\-]+")


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    flat = _SPECIAL.sub(r"\\\1", clean_text(text))
    # A bare address would become a link; a zero-width break in it changes nothing to the eye.
    return flat.replace("://", ":\u200b//").replace("\\<", "&lt;").replace("\\>", "&gt;")


def code(text: str) -> str:
    """Return text as code, or escaped where a fence could be broken out of."""
    flat = clean_text(text)
    return f"`{flat}`" if _PLAIN_CODE.fullmatch(flat) else escape(flat)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return a table of ready Markdown cells; `right` names columns of numbers."""
    rule = ["---:" if index in right else "---" for index in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def bullets(lines: Sequence[str]) -> str:
    """Return a list."""
    return "\n".join(f"- {line}" for line in lines)


def details(summary: str, body: str) -> str:
    """Return a part that is folded until the reader opens it."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def percent(fraction: float) -> str:
    """`13 %`."""
    return f"{100 * fraction:.0f} %"


def listing(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def count(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
