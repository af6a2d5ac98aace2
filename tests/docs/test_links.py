"""Links between the repository's pages lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, anchors, links

PAGES = sorted(
    [
        REPOSITORY / "README.md",
        *REPOSITORY.glob("dmlf/**/*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("examples/**/*.md"),
    ]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        found = target.exists() and target.is_relative_to(REPOSITORY)
        if found and anchor and target.suffix == ".md":
            found = anchor in anchors(target.read_text())
        if not found:
            broken.append(link)
    assert broken == []


def test_links_are_found() -> None:
    page = "# A b\n[x](y.md#z) ![p](q.png)\n`[no](code)`\n```\n[no](fence)\n# no\n```\n"
    assert links(page) == ["y.md#z", "q.png"]
    assert anchors(page) == {"a-b"}
