"""The report as one page of HTML: no request to anything, readable on a phone, light and dark.

The page is made from the report's Markdown. Markup in it comes from this package alone: what
stands in the Markdown as HTML is shown as text, but for the foldable parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from dmlf.benchmark.report import drawing
from dmlf.errors import DependencyMissing, MetricsError

_MAX_PANELS = 16
"""As many as page.css can show one by one; a drawing with more is shown whole."""
_FOLD = re.compile(r"<details>\n<summary>([^<>]*)</summary>\n?|</details>\n?")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_UNNAMED = re.compile(r"[^\w\- ]+")


def page(text: str, title: str, folder: Path) -> str:
    """Return the page of a report, which begins with its title.

    Its images are SVG files whose paths count from `folder`; one that is missing or not SVG is
    named in its place. Raises DependencyMissing without markdown-it-py.
    """
    markdown = _parser()
    environment: dict[str, Any] = {"folder": folder, "anchors": {}, "figures": 0}
    tokens = markdown.parse(text, environment)
    _name_headings(tokens)
    # The title leads the page, before the contents: the first three tokens are its heading.
    header = markdown.renderer.render(tokens[:3], markdown.options, environment)
    body = markdown.renderer.render(tokens[3:], markdown.options, environment)
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    contents = _contents(tokens)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#report">To the report</a>\n'
        f"<header>\n{header}</header>\n"
        f'<nav aria-label="Contents">\n<details open>\n<summary>Contents</summary>\n{contents}'
        f'</details>\n</nav>\n<main id="report">\n<article>\n{body}</article>\n</main>\n'
        "<footer>Made by <code>dmlf report</code>: one file, which loads nothing.</footer>\n"
        "</body>\n</html>\n"
    )


def _parser() -> Any:
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        install = 'pip install -e ".[workflow]"'
        raise DependencyMissing("markdown-it-py", str(error), install) from error
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    for rule, render in _RENDERED.items():
        markdown.add_render_rule(rule, render)
    return markdown


def _html(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    """Foldable parts pass, everything else is text."""
    content: str = tokens[index].content
    parts, end = [], 0
    for match in _FOLD.finditer(content):
        parts.append(escape(content[end : match.start()]))
        summary = match[1]
        parts.append(
            "</details>\n"
            if summary is None
            else f"<details>\n<summary>{escape(summary, quote=False)}</summary>\n"
        )
        end = match.end()
    return "".join([*parts, escape(content[end:])])


def _table_open(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    # Focusable, so that the keyboard can scroll it.
    head = next(token.content for token in tokens[index:] if token.type == "inline")
    label = escape(f"Table: {head or 'numbers'}")
    return f'<div class="table" role="region" tabindex="0" aria-label="{label}">\n<table>\n'


def _table_close(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    return "</table>\n</div>\n"


def _cell_open(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    right = "right" in str(token.attrGet("style") or "")
    scope = ' scope="col"' if token.tag == "th" else ""
    number = ' class="number"' if right else ""
    return f"<{token.tag}{scope}{number}>"


def _image(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    alternative = renderer.renderInlineAsText(token.children or [], options, env)
    source = str(token.attrGet("src") or "")
    env["figures"] += 1
    prefix = f"f{env['figures']}-"
    try:
        root = drawing.read_drawing(env["folder"] / source)
    except MetricsError as error:
        return f'<span class="missing" role="note">{escape(str(error))}</span>'
    panels = drawing.frames(root)
    if 0 < len(panels) <= _MAX_PANELS:
        return _stepper(panels, prefix, alternative)
    drawn = drawing.inline(root, prefix, alternative)
    label = escape(f"Figure: {alternative}")
    return f'<span class="figure" role="region" tabindex="0" aria-label="{label}">{drawn}</span>'


def _stepper(panels: Sequence[tuple[str, Any]], prefix: str, alternative: str) -> str:
    """Panels one after the other, chosen by radio buttons: arrow keys work, and no script runs."""
    name = f"{prefix}step"
    buttons, shown = [], []
    for number, (words, element) in enumerate(panels, start=1):
        key = f"{name}{number}"
        checked = " checked" if number == 1 else ""
        heading, _, explanation = words.partition(". ")
        buttons.append(
            f'<input type="radio" name="{name}" id="{key}" class="n{number}"{checked}>'
            f'<label for="{key}">{number}. {escape(heading)}</label>'
        )
        drawn = drawing.inline(element, f"{key}-", f"{heading}: {alternative}")
        shown.append(
            f'<span class="panel n{number}"><strong>{escape(heading)}.</strong> '
            f'{escape(explanation)}<span class="figure" role="region" tabindex="0" '
            f'aria-label="{escape(heading)}">{drawn}</span></span>'
        )
    return (
        f'<span class="stepper" role="group" aria-label="{escape(alternative)}">'
        f"{''.join(buttons)}{''.join(shown)}</span>"
    )


def _heading_open(renderer: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    return f'<{token.tag} id="{escape(token.meta["anchor"])}">'


_RENDERED = {
    "html_block": _html,
    "html_inline": _html,
    "table_open": _table_open,
    "table_close": _table_close,
    "th_open": _cell_open,
    "td_open": _cell_open,
    "image": _image,
    "heading_open": _heading_open,
}


def _name_headings(tokens: Sequence[Any]) -> None:
    """Give every heading the anchor that GitHub gives it."""
    taken: dict[str, int] = {}
    for opened, inside in _headings(tokens):
        anchor = _UNNAMED.sub("", inside.content.lower()).replace(" ", "-")
        count = taken.get(anchor, 0)
        taken[anchor] = count + 1
        opened.meta["anchor"] = f"{anchor}-{count}" if count else anchor


def _headings(tokens: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            yield token, tokens[index + 1]


def _contents(tokens: Sequence[Any]) -> str:
    lines = [
        f'<li><a href="#{escape(opened.meta["anchor"])}">{escape(inside.content)}</a></li>'
        for opened, inside in _headings(tokens)
        if opened.tag == "h2"
    ]
    return "<ol>\n" + "\n".join(lines) + "\n</ol>\n"
