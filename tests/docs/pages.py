"""What a page of the documentation asks its reader to do, and what it links to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.M | re.S,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: commands (`sh`), their output (`text`), or a file that has a title.

    mark: the comment before it: `slow: ...` if tests leave it out, `fails` if it must exit with
    another code than 0.
    """

    kind: str
    text: str
    title: str | None
    mark: str
    line: int


def blocks(page: str) -> list[Block]:
    """The page's fenced blocks that name a language, in order."""
    return [
        Block(
            kind=found["kind"],
            text=found["text"],
            title=found["title"],
            mark=found["mark"] or "",
            line=page.count("\n", 0, found.start("kind")) + 1,
        )
        for found in _FENCE.finditer(page)
    ]


def matches(expected: str, output: str) -> bool:
    """Whether the output is as a page shows it, where `...` stands for anything."""
    parts = [re.escape(part.strip("\n")) for part in expected.split("...")]
    return re.fullmatch(r"\s*" + ".*".join(parts) + r"\s*", output, re.S) is not None


def links(page: str) -> list[str]:
    """Targets of the page's links and pictures that are not in code."""
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors(page: str) -> set[str]:
    """Names by which the page's headings can be linked to."""
    prose = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    words = (re.sub(r"[^\w\- ]", "", heading).strip() for heading in headings)
    return {text.lower().replace(" ", "-") for text in words}
