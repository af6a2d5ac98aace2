"""A figure's SVG made fit to stand inside a page: nothing but shapes, in the page's own colours.

Only known elements and attributes are taken over, references stay inside the drawing, and ids get
a prefix, so that two drawings of one page do not meet. The figures' colours become variables of
the page, which has a light and a dark value for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from dmlf.benchmark.plots import palette
from dmlf.errors import MetricsError

VARIABLES = {
    getattr(palette, name): f"--{name.lower()}" for name in sorted(vars(palette)) if name.isupper()
}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = frozenset(
    {
        "circle",
        "clipPath",
        "defs",
        "ellipse",
        "g",
        "line",
        "path",
        "pattern",
        "polygon",
        "polyline",
        "rect",
        "svg",
        "text",
        "title",
        "tspan",
        "use",
    }
)
_ATTRIBUTES = frozenset(
    {
        "class",
        "clip-path",
        "clip-rule",
        "cx",
        "cy",
        "d",
        "fill",
        "fill-opacity",
        "fill-rule",
        "font-family",
        "font-size",
        "font-weight",
        "height",
        "id",
        "opacity",
        "patternUnits",
        "points",
        "r",
        "rx",
        "ry",
        "stroke",
        "stroke-dasharray",
        "stroke-linecap",
        "stroke-linejoin",
        "stroke-opacity",
        "stroke-width",
        "style",
        "text-anchor",
        "transform",
        "viewBox",
        "width",
        "x",
        "x1",
        "x2",
        "y",
        "y1",
        "y2",
    }
)
_COLOR = re.compile(r"#[0-9a-fA-F]{6}\b")
_LOCAL_URL = re.compile(r"url\(#([A-Za-z0-9_.-]+)\)")
_STYLE_ATTRIBUTES = ("style", "fill", "stroke")
_MAX_BYTES = 16 << 20


def read_drawing(path: Path) -> ElementTree.Element:
    """Read an SVG file. Raises MetricsError when it is absent, too large or not one."""
    name = str(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise MetricsError(name, "figure", f"is larger than {_MAX_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        problem = "does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise MetricsError(name, "figure", problem) from None
    if b"<!ENTITY" in content:
        raise MetricsError(name, "figure", "declares entities, which no figure of dmlf does")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise MetricsError(name, "figure", f"is not SVG: {error}") from error
    if root.tag != f"{_SVG}svg":
        raise MetricsError(name, "figure", "is not SVG")
    return root


def frames(root: ElementTree.Element) -> list[tuple[str, ElementTree.Element]]:
    """The panels of a drawing that is to be seen step by step, each with its words; or none."""
    found = [e for e in root.iter(f"{_SVG}svg") if e.get("class") == "frame"]
    return [(element.findtext(f"{_SVG}title", ""), element) for element in found]


def inline(root: ElementTree.Element, prefix: str, alternative: str) -> str:
    """Return the drawing as markup: `alternative` says in words what is seen.

    Width and height give way to the page's own. Cost: linear in the drawing.
    """
    box = root.get("viewBox", "")
    if not re.fullmatch(r"[-\d.eE ]{1,100}", box):
        box = "0 0 1 1"
    body = "".join(_markup(child, prefix) for child in root if child.tag != f"{_SVG}title")
    return (
        f'<svg class="drawing" role="img" aria-label="{escape(alternative)}" viewBox="{box}">'
        f"{body}</svg>"
    )


def _markup(element: ElementTree.Element, prefix: str) -> str:
    if not isinstance(element.tag, str) or not element.tag.startswith(_SVG):
        return ""
    name = element.tag.removeprefix(_SVG)
    if name not in _ELEMENTS:
        return ""
    attributes = "".join(_attributes(element, prefix))
    text = escape(element.text or "") if name in ("text", "title", "tspan") else ""
    parts = [_markup(child, prefix) + _tail(child, name) for child in element]
    return f"<{name}{attributes}>{text}{''.join(parts)}</{name}>"


def _tail(child: ElementTree.Element, parent: str) -> str:
    return escape(child.tail or "") if parent in ("text", "tspan") else ""


def _attributes(element: ElementTree.Element, prefix: str) -> Iterator[str]:
    for name, value in element.attrib.items():
        if name in (_HREF, "href"):
            if value.startswith("#"):
                yield f' href="#{prefix}{escape(value[1:])}"'
            continue
        if name not in _ATTRIBUTES or "\\" in value:
            continue
        local = _LOCAL_URL.sub(rf"url(#{prefix}\1)", value)
        if "url(" in _LOCAL_URL.sub("", value).lower() or "@import" in value:
            continue
        if name == "id":
            local = f"{prefix}{value}"
        if name in _STYLE_ATTRIBUTES:
            local = _COLOR.sub(_themed, local)
            if name != "style" and local.startswith("var("):
                # A presentation attribute knows no variables; a style does.
                yield f' style="{name}:{local}"'
                continue
        yield f' {name}="{escape(local)}"'


def _themed(match: re.Match[str]) -> str:
    variable = VARIABLES.get(match[0].upper())
    return match[0] if variable is None else f"var({variable})"
