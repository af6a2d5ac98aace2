"""The report as a page: the same words, one file, no request, and no markup from data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dmlf.benchmark.plots import FIGURES, draw, draw_step
from dmlf.benchmark.report import write_report
from dmlf.benchmark.report.page import page
from dmlf.benchmark.table import RunRow, Table, write_table
from tests.benchmark.rows import rows
from tests.benchmark.timelines import write_ring

pytest.importorskip("markdown_it")

HOSTILE = (
    "a | b\n# c <script>alert(1)</script> `d` [e](http://f) </details> ![g](h) *i* "
    "<img src=x onerror=alert(2)> javascript:alert(3) &lt;b&gt; <details><summary>j</summary>"
)
VOID = {"meta", "input", "br", "hr", "img", "link"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Reader(HTMLParser):
    """What a browser would build: elements with attributes, checked to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def whole(matrix_table_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all its figures; returns the page's path."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    for name in FIGURES:
        draw(name, matrix_table_path, folder / "figures" / f"{name}.svg")
    timeline = write_ring(folder / "timeline.json")
    draw_step(timeline, folder / "figures" / "step-ring-queue.svg")
    write_report(matrix_table_path, folder / "figures", folder / "report.md")
    return folder / "report.html"


def report(tmp_path: Path, *groups: list[RunRow]) -> Reader:
    table = tmp_path / "runs.csv"
    write_table(table, Table(tuple(row for group in groups for row in group), ()))
    write_report(table, tmp_path / "figures", tmp_path / "report.md")
    return Reader((tmp_path / "report.html").read_text())


def test_the_page_has_the_report_s_words(whole: Path) -> None:
    words = " ".join("".join(Reader(whole.read_text()).words).split())
    markdown = whole.with_suffix(".md").read_text()
    headings = re.findall(r"^#+ (.*)$", markdown, flags=re.MULTILINE)
    assert len(headings) > 15
    for heading in headings:
        assert heading in words
    answer = markdown.partition("## The answer\n")[2].partition("\n## ")[0]
    plain = re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)[*`]|\[|\]\(#\w+\)", "", answer))
    for sentence in re.sub(r"(?m)^- ", "", plain).replace("]", "").split(". ")[:4]:
        assert " ".join(sentence.split()) in words.replace("[", "").replace("]", "")


def test_the_page_is_one_file_that_asks_for_nothing(whole: Path) -> None:
    text = whole.read_text()
    reader = Reader(text)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert "src" not in attributes
        href = attributes.get("href")
        assert href is None or href.startswith("#"), (tag, href)
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]?)", text)) <= {"#"}
    policy = next(m for m in reader.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in (policy["content"] or "")


def test_every_id_is_there_once_and_every_reference_is_met(whole: Path) -> None:
    reader = Reader(whole.read_text())
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = [a["href"] or "" for _, a in reader.elements if "href" in a]
    assert len(references) > 100
    assert {reference[1:] for reference in references} <= set(ids)


def test_the_page_can_be_read_by_all(whole: Path) -> None:
    reader = Reader(whole.read_text())
    assert reader.all("html")[0]["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(reader.all(landmark)) == 1
    drawings = [a for a in reader.all("svg") if a.get("class") == "drawing"]
    assert len(drawings) == len(FIGURES) + 7
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert len(drawing["aria-label"] or "") > 30
    boxes = [a for a in reader.all("div") if a.get("class") == "table"]
    assert len(boxes) == len(reader.all("table")) > 5
    assert {(box["role"], box["tabindex"]) for box in boxes} == {("region", "0")}
    assert all(cell["scope"] == "col" for cell in reader.all("th"))
    radios = reader.all("input")
    assert len(radios) == 7
    assert [radio["id"] for radio in radios] == [label["for"] for label in reader.all("label")]
    assert sum("checked" in radio for radio in radios) == 1


def test_a_drawing_of_too_many_panels_is_shown_whole(tmp_path: Path) -> None:
    panel = '<svg class="frame" viewBox="0 0 1 1"><title>A. B</title><path d="M0 0"/></svg>'
    for panels in (16, 17):
        body = panel * panels
        (tmp_path / "a.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{body}</svg>')
        reader = Reader(page("# T\n\n![alt](a.svg)\n", "T", tmp_path))
        assert len(reader.all("input")) == (16 if panels == 16 else 0)
        assert len(reader.all("path")) == panels
    style = (Path(__file__).parents[2] / "dmlf/benchmark/report/page.css").read_text()
    assert ".n16:checked ~ .panel.n16" in style


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    broken = rows("ring-queue", 2, [1.0], status="failed", check="absent", cohort=None,
                  reason=HOSTILE)  # fmt: skip
    noisy = rows("serial", 1, [100.0], cpu_model=HOSTILE, check_detail=HOSTILE,
                 warning_texts=HOSTILE, warnings=1, contaminated_by=HOSTILE,
                 workload=json.dumps({HOSTILE: HOSTILE}))  # fmt: skip
    reader = report(tmp_path, noisy, broken)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "img", "a href"}
    assert not [a for _, a in reader.elements if any(name.startswith("on") for name in a)]
    assert all((a.get("href") or "#").startswith("#") for a in reader.all("a"))
    assert len(reader.all("h1")) == 1
    assert "<script>alert(1)</script>" in "".join(reader.words)
    summaries = len(reader.all("summary"))
    assert summaries == len(reader.all("details"))


def test_html_in_the_markdown_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    text = (
        "# Title\n\n<details>\n<summary>fold</summary>\n\nin *it*\n\n</details>\n\n"
        "<div onclick='x'>block</div>\n\na <b>bold</b> word\n\n<details open onload=x>\n"
    )
    reader = Reader(page(text, "Title", tmp_path))
    assert len(reader.all("details")) == 2  # the contents', and the one that is ours
    assert not reader.all("b")
    assert not reader.all("div")
    words = "".join(reader.words)
    assert "<div onclick='x'>block</div>" in words
    assert "<details open onload=x>" in words


def test_a_figure_that_is_missing_is_named_in_its_place(tmp_path: Path) -> None:
    serial = rows("serial", 1, [100.0, 101.0, 102.0, 103.0, 104.0])
    reader = report(tmp_path, serial)
    missing = [a for a in reader.all("span") if a.get("class") == "missing"]
    assert len(missing) == len(FIGURES) - 1  # no exact runs, no figure of them
    assert "throughput.svg: figure: does not exist" in "".join(reader.words)


@pytest.mark.parametrize(
    "groups",
    [
        (),
        (rows("ring-queue", 2, [1.0], status="missing", check="absent", cohort=None),),
        (rows("serial", 1, [1.0], check="failed"),),
        (rows("serial", 1, [1.0]), rows("serial", 1, [9.0], seed=1, cohort="ba9876543210")),
    ],
)
def test_any_table_gives_a_page(tmp_path: Path, groups: tuple[list[RunRow], ...]) -> None:
    words = "".join(report(tmp_path, *groups).words)
    assert "times its throughput" not in words
    assert json.loads((tmp_path / "findings.json").read_text())["schema_version"] == 1


def test_the_same_table_gives_the_same_page(whole: Path, matrix_table_path: Path) -> None:
    before = whole.read_bytes()
    write_report(matrix_table_path, whole.parent / "figures", whole.with_suffix(".md"))
    assert whole.read_bytes() == before


MEASURE = """<style>html { width: 390px; }</style><script>
addEventListener("load", () => {
  const boxed = ".table, .figure, .skip";
  const wide = [...document.querySelectorAll("body *")].filter((element) =>
    !element.closest(boxed) && element.getBoundingClientRect().right > 390.5);
  const boxes = [...document.querySelectorAll(".table, .figure")].filter((element) =>
    element.getBoundingClientRect().right > 390.5 ||
    getComputedStyle(element).overflowX !== "auto");
  const requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  const scheme = matchMedia("(prefers-color-scheme: dark)").matches;
  const shown = [...document.querySelectorAll(".panel")].filter((panel) => panel.offsetHeight > 0);
  document.title = JSON.stringify({
    wide: [...wide, ...boxes].map((element) => element.outerHTML.slice(0, 200)),
    drawings: document.querySelectorAll("svg.drawing").length,
    requests, scheme, shown: shown.length,
    page: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  });
});
</script></head>"""


def browse(path: Path, tmp_path: Path, *flags: str) -> dict[str, object]:
    """Load the page without a network and return what it measured of itself."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
            "--window-size=500,900", *flags, path.as_uri(),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=100, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout, re.S)
    assert title is not None
    measured: dict[str, object] = json.loads(unescape(title[1]))
    return measured


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_a_browser_shows_it_on_a_phone_light_and_dark(
    whole: Path, tmp_path: Path, scheme: str, dark: bool
) -> None:
    # The measuring script is the test's own: the page's policy would refuse it.
    text = re.sub(r"<meta http-equiv[^>]*>", "", whole.read_text(), count=1)
    copy = tmp_path / "page.html"
    copy.write_text(text.replace("</head>", MEASURE, 1))
    seen = browse(copy, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    assert seen["wide"] == []
    assert seen["requests"] == []
    assert seen["drawings"] == len(FIGURES) + 7
    assert seen["shown"] == 1
    assert seen["scheme"] is dark
    assert (seen["page"] == "rgb(255, 255, 255)") is not dark
    assert (seen["ink"] == "rgb(34, 34, 34)") is not dark
