"""An extension of griffe: the lines of a docstring that stand for themselves stay apart on a page.

`name: what it is` becomes an item of a list; a line on cost, errors or source a paragraph.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"^([a-z_]\w*): ")
PARAGRAPH = re.compile(r"^(Cost|Order|Raises|On error|Source)\b")


class LinesApart(griffe.Extension):
    """Applied to every docstring that is collected."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = lines_apart(obj.docstring.value)


def lines_apart(text: str) -> str:
    """The same text as Markdown that keeps items and paragraphs apart."""
    lines, in_item = [], False
    for line in text.splitlines():
        if ITEM.match(line):
            lines += [] if in_item else [""]
            line, in_item = ITEM.sub(r"- `\1`: ", line), True
        elif PARAGRAPH.match(line):
            lines.append("")
            in_item = False
        elif in_item and line and not line.startswith(" "):
            line = "  " + line
        elif not line:
            in_item = False
        lines.append(line)
    return "\n".join(lines)
