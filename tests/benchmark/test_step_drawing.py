"""The drawing of a recorded step: a panel per stage, true words, a picture of what happened."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dmlf.benchmark.plots import draw_step
from dmlf.benchmark.plots.palette import INK
from dmlf.benchmark.plots.step import stages_of
from dmlf.benchmark.recorded_step import read_step
from dmlf.errors import ConfigError, MetricsError
from tests.benchmark.timelines import write_ring, write_server

SVG = "{http://www.w3.org/2000/svg}"


def frames(tmp_path: Path, timeline: Path) -> list[tuple[str, ElementTree.Element]]:
    output = tmp_path / "step.svg"
    draw_step(timeline, output)
    root = ElementTree.parse(output).getroot()
    found = [e for e in root.iter(f"{SVG}svg") if e.get("class") == "frame"]
    return [(e.findtext(f"{SVG}title", ""), e) for e in found]


def bold_arrows(frame: ElementTree.Element) -> int:
    return sum(e.get("stroke") == INK for e in frame.iter(f"{SVG}line"))


def test_the_ring_goes_round_by_round(tmp_path: Path) -> None:
    found = frames(tmp_path, write_ring(tmp_path / "timeline.json"))
    assert [words.partition(". ")[0] for words, _ in found] == [
        "Compute",
        "Reduce-scatter, round 1 of 2",
        "Reduce-scatter, round 2 of 2",
        "All-gather, round 1 of 2",
        "All-gather, round 2 of 2",
        "Optimizer",
        "The whole step to scale",
    ]
    assert [bold_arrows(frame) for _, frame in found] == [0, 3, 3, 3, 3, 0, 0]
    # Chunk c starts at rank c, and after W - 1 rounds is complete at rank c - 1.
    assert "chunk 0 from 0 to 1, chunk 1 from 1 to 2, chunk 2 from 2 to 0" in found[1][0]
    assert "chunk 2 from 0 to 1, chunk 0 from 1 to 2, chunk 1 from 2 to 0" in found[2][0]
    assert "chunk 1 from 0 to 1, chunk 2 from 1 to 2, chunk 0 from 2 to 0" in found[3][0]
    assert "chunk 0 from 0 to 1, chunk 1 from 1 to 2, chunk 2 from 2 to 0" in found[4][0]


def test_the_parameter_server_s_stages(tmp_path: Path) -> None:
    timeline = write_server(tmp_path / "timeline.json")
    step = read_step(timeline)
    assert [stage.phase for stage in stages_of(step)] == [
        "compute", "push", "optimizer", "commit", "pull",
    ]  # fmt: skip
    found = frames(tmp_path, timeline)
    assert [bold_arrows(frame) for _, frame in found] == [0, 2, 0, 2, 2, 0]
    assert "The server alone" in found[2][0]
    text = (tmp_path / "step.svg").read_text()
    assert re.findall(r">(rank 2|server)<", text)[:2] == ["rank 2", "server"]


def test_everything_lies_within_the_panel_and_in_order_of_time(tmp_path: Path) -> None:
    for _, frame in frames(tmp_path, write_ring(tmp_path / "timeline.json")):
        width = float(frame.get("width", "0"))
        for bar in frame.iter(f"{SVG}rect"):
            left = float(bar.get("x", "-1"))
            assert 92 <= left <= left + float(bar.get("width", "0")) <= width
        for line in frame.iter(f"{SVG}line"):
            assert float(line.get("x1", "0")) <= float(line.get("x2", "0"))


def test_the_same_timeline_gives_the_same_bytes(tmp_path: Path) -> None:
    timeline = write_ring(tmp_path / "timeline.json")
    for name in ("a.svg", "b.svg"):
        draw_step(timeline, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_bad_requests_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        draw_step(write_ring(tmp_path / "timeline.json"), tmp_path / "step.png")
    with pytest.raises(MetricsError):
        draw_step(tmp_path / "absent.json", tmp_path / "step.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["timeline.json"]
