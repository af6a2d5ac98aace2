"""A figure in the page is shapes alone, in the page's colours, with ids of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmlf.benchmark.plots import palette
from dmlf.benchmark.report.drawing import VARIABLES, frames, inline, read_drawing
from dmlf.errors import MetricsError

HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' viewBox="0 0 10 20">'
)


def drawn(tmp_path: Path, body: str) -> str:
    path = tmp_path / "figure.svg"
    path.write_text(f"{HEAD}{body}</svg>")
    return inline(read_drawing(path), "f1-", 'Speeds "by" <size>')


def test_words_stand_for_the_drawing(tmp_path: Path) -> None:
    text = drawn(tmp_path, "<title>old</title><text>a &lt; b</text>")
    assert 'role="img" aria-label="Speeds &quot;by&quot; &lt;size&gt;" viewBox="0 0 10 20"' in text
    assert "<text>a &lt; b</text>" in text
    assert "old" not in text


@pytest.mark.parametrize(
    "body",
    [
        "<script>alert(1)</script>",
        "<script id='alert'/>",
        "<foreignObject id='alert'/>",
        "<foreignObject><p xmlns='http://www.w3.org/1999/xhtml'>alert</p></foreignObject>",
        "<g onload='alert(1)'/>",
        "<image href='https://alert.example/a.png'/>",
        "<use xlink:href='https://alert.example/a.svg#b'/>",
        "<use href='data:image/svg+xml,alert'/>",
        "<path style='fill: url(https://alert.example/a)'/>",
        "<path fill='url(//alert.example/a)'/>",
        "<path style='fill: u\\72l(alert)'/>",
        "<style>@import 'https://alert.example'</style>",
        "<a href='javascript:alert(1)'><path d='M0 0'/></a>",
        "<!-- alert -->",
        "<set attributeName='href' to='javascript:alert(1)'/>",
    ],
)
def test_nothing_that_acts_or_loads_gets_through(tmp_path: Path, body: str) -> None:
    text = drawn(tmp_path, body)
    assert "alert" not in text
    assert "http" not in text


def test_references_stay_within_one_drawing(tmp_path: Path) -> None:
    text = drawn(
        tmp_path,
        "<defs><path id='glyph' d='M0 0'/><clipPath id='c'/></defs>"
        "<use xlink:href='#glyph'/><g clip-path='url(#c)'/>",
    )
    assert 'id="f1-glyph"' in text
    assert 'href="#f1-glyph"' in text
    assert 'clip-path="url(#f1-c)"' in text


def test_the_figures_colours_follow_the_page(tmp_path: Path) -> None:
    text = drawn(
        tmp_path, "<path style='fill: #0072b2; stroke: #123456'/><rect fill='#E69F00' width='1'/>"
    )
    assert "fill: var(--blue); stroke: #123456" in text
    assert 'style="fill:var(--orange)"' in text


def test_the_page_has_every_colour_light_and_dark() -> None:
    from importlib import resources

    style = resources.files("dmlf.benchmark.report").joinpath("page.css").read_text()
    light, dark = style.split("prefers-color-scheme: dark", 1)
    for variable in VARIABLES.values():
        assert f"{variable}:" in light
    for variable in set(VARIABLES.values()) - {"--white"}:  # the page itself
        assert f"{variable}:" in dark.split("\n* {")[0]
    for name, value in vars(palette).items():
        if name.isupper() and name not in ("WHITE", "GREY"):  # grey words need more contrast
            assert f"--{name.lower()}: {value.lower()};" in light


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "does not exist"),
        ("", "is not SVG"),
        ("<svg", "is not SVG"),
        ("<html/>", "is not SVG"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>', "entities"),
    ],
)
def test_what_is_no_figure_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "figure.svg"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MetricsError, match=problem) as refused:
        read_drawing(path)
    assert str(path) in str(refused.value)


def test_panels_are_found_with_their_words(tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    panel = '<svg class="frame" viewBox="0 0 1 1"><title>One. Two</title></svg>'
    path.write_text(f"{HEAD}<svg/>{panel}</svg>")
    assert [words for words, _ in frames(read_drawing(path))] == ["One. Two"]
