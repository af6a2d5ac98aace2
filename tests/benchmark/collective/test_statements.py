"""What is said of a record, and that it says the opposite of opposite data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.claims import Outcome
from dmlf.benchmark.collective.load import Loaded, load
from dmlf.benchmark.collective.statements import outcome_of, statements
from dmlf.benchmark.collective.summary import points
from dmlf.benchmark.files import write_json
from dmlf.benchmark.plots import draw_record
from dmlf.benchmark.report import write_report
from dmlf.benchmark.statistics import Estimate
from dmlf.benchmark.table import Table, write_table
from tests.benchmark.collective.records import TIMES, collectives, record
from tests.benchmark.test_report import headings, section

SLOW = [4.0, 4.1, 3.9, 4.2, 4.0]
FAST = [1.0, 1.1, 0.9, 1.0, 1.05]
AROUND = [3.0, 5.0, 3.1, 5.2, 4.0]


def against_gloo(times: list[float]) -> Any:
    everyone = {**TIMES, "ring-shm": times, "gloo": SLOW[: len(times)]}
    everyone = {name: list(values)[: len(times)] for name, values in everyone.items()}
    found = statements(collectives(everyone, world_sizes=(2,)))
    (statement,) = [s for s in found if (s.strategy, s.peer) == ("ring-shm", "gloo")]
    return statement


@pytest.mark.parametrize(
    ("times", "outcome", "words"),
    [
        (FAST, Outcome.HOLDS, "is faster than gloo at 1 KiB (4.00 ["),
        ([9.0] * 5, Outcome.DOES_NOT_HOLD, "is slower than gloo at 1 KiB (0.444 ["),
        (AROUND, Outcome.NOT_DISTINGUISHABLE, "is not distinguishable from gloo at 1 KiB"),
        (FAST[:4], Outcome.NO_DATA, "No statement on ring-shm at world size 2 and gloo"),
    ],
)
def test_the_text_follows_the_data(times: list[float], outcome: Outcome, words: str) -> None:
    statement = against_gloo(times)
    assert statement.outcomes == ((1024, outcome), (1 << 20, outcome))
    assert words in statement.text
    others = {"faster", "slower", "distinguishable", "No statement"} - set(words.split())
    assert not any(f"is {other}" in statement.text for other in others if other not in words)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (1.01, 2.0, Outcome.HOLDS),
        (0.5, 0.99, Outcome.DOES_NOT_HOLD),
        (0.99, 1.01, Outcome.NOT_DISTINGUISHABLE),
        (1.0, 1.0, Outcome.NOT_DISTINGUISHABLE),
        (None, None, Outcome.NO_DATA),
    ],
)
def test_an_interval_decides(low: float | None, high: float | None, outcome: Outcome) -> None:
    assert outcome_of(Estimate(1.0, low, high, 5)) == outcome
    assert outcome_of(Estimate(1.0, low, high, 4)) == Outcome.NO_DATA


def test_every_strategy_is_held_against_every_peer_that_took_part() -> None:
    pairs = {(s.strategy, s.peer, s.world_size) for s in statements(collectives())}
    strategies = ("ring-shm", "parameter_server-shm")
    assert pairs == {(s, p, w) for s in strategies for p in ("gloo", "openmpi") for w in (2, 4)}
    times = {name: TIMES[name] for name in ("ring-shm", "gloo", "limit")}
    alone = statements(collectives(times, {"openmpi": "not installed"}))
    assert {(s.strategy, s.peer) for s in alone} == {("ring-shm", "gloo")}
    assert all(s.oversubscribed for s in statements(collectives()) if s.world_size == 4)


def report(tmp_path: Path, path: Path | None) -> str:
    write_table(tmp_path / "runs.csv", Table((), ()))
    output = tmp_path / "report" / "report.md"
    write_report(tmp_path / "runs.csv", tmp_path / "report" / "figures", output, path)
    return output.read_text()


def test_the_report_has_a_section_with_statements_tables_and_shares(tmp_path: Path) -> None:
    path = tmp_path / "collective.json"
    write_json(path, record())
    text = report(tmp_path, path)
    assert headings(text).index("Collectives") < headings(text).index("Cost model")
    shown = section(text, "Collectives")
    assert (
        "ring-shm at world size 2 is faster than gloo at 1 KiB (4.00 \\[3.73, 4.33\\] times)"
        in shown
    )
    assert "ring-shm at world size 2 is slower than openmpi" in shown
    assert "](figures/collective.svg)" in shown
    assert "`ring-shm` 25 % [23, 28]" in shown
    rows = [line for line in shown.splitlines() if line.startswith("| 1 MiB | `ring-shm`")]
    assert len(rows) == 2
    assert rows[0].startswith("| 1 MiB | `ring-shm` | 1.00 | 1.05 | 1.05 | 4.00 [3.73, 4.33] |")


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 7}'])
def test_without_a_valid_record_report_and_figure_say_so(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "collective.json"
    if content is not None:
        path.write_text(content)
    shown = section(report(tmp_path, path), "Collectives")
    assert "There is no all-reduce to show" in shown
    assert "snakemake results/collective.json" in shown
    assert "faster" not in shown
    pytest.importorskip("matplotlib")
    draw_record("collective", path, tmp_path / "collective.svg")
    assert (tmp_path / "collective.png").stat().st_size > 0


def test_a_skipped_peer_is_named_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "collective.json"
    times = {name: TIMES[name] for name in ("ring-shm", "gloo", "limit")}
    write_json(path, record(times, {"openmpi": "a | b <script>"}))
    shown = section(report(tmp_path, path), "Collectives")
    assert "`openmpi` took no part at world size 2: a \\| b &lt;script&gt;." in shown
    assert "than openmpi" not in shown


def figure(loaded: Loaded) -> Any:
    pytest.importorskip("matplotlib")
    from dmlf.benchmark.plots import collective, style

    with style.paper():
        return collective.render(loaded)


def test_the_figure_draws_every_contestant_in_every_panel(tmp_path: Path) -> None:
    read = collectives()
    axes = figure(Loaded(read, "")).axes
    assert [a.get_title(loc="left") for a in axes] == [
        "2 ranks", "4 ranks (oversubscribed: 2 cores)",
    ]  # fmt: skip
    for panel, world_size in zip(axes, (2, 4), strict=True):
        drawn = {round(float(y), 9) for line in panel.lines for y in line.get_ydata()}
        wanted = {round(p.busbw.median / 1e9, 9) for p in points(read, world_size)}
        assert drawn == wanted
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
        assert [line.get_linestyle() for line in panel.lines].count("--") >= 1
    hollow = [
        [
            line.get_markerfacecolor() == "white"
            for line in panel.lines
            if len(line.get_ydata()) == 1
        ]
        for panel in axes
    ]
    assert (sum(hollow[0]), sum(hollow[1])) == (2, 8)


def test_same_record_same_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "collective.json"
    write_json(path, record())
    for name in ("a", "b"):
        draw_record("collective", path, tmp_path / name / "collective.svg")
    for suffix in ("svg", "png"):
        first, second = (tmp_path / name / f"collective.{suffix}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    assert load(path).problem == ""
