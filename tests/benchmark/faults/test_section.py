"""What report, figure and findings say of faults: what the files hold, and nothing without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.files import write_json
from dmlf.benchmark.plots import draw_faults
from dmlf.benchmark.report import write_report
from dmlf.benchmark.table import Table, write_table
from tests.benchmark.faults.records import OTHER, campaign, overhead, run
from tests.benchmark.test_report import section

SOUND = [
    run(0, "kill:rank=1,step=4,phase=commit"),
    run(1, "drop:rank=0,step=5,phase=commit", detection_s=2.0),
    run(2, "nan:rank=0,step=4", must_end_with="NonFiniteGradient",
        ended_with="NonFiniteGradient: step 4", detection_s=None, recoveries=[]),
    run(3, "delay:rank=0,step=4,phase=push,seconds=0.2", detection_s=None, recoveries=[]),
]  # fmt: skip


def report(
    tmp_path: Path, broken: dict[str, Any] | None, price: dict[str, Any] | None = None
) -> str:
    """The report of an empty table beside these files."""
    write_table(tmp_path / "runs.csv", Table((), ()))
    for name, content in (("faults.json", broken), ("overhead.json", price)):
        if content is not None:
            write_json(tmp_path / name, content)
    output = tmp_path / "report" / "report.md"
    write_report(
        tmp_path / "runs.csv", tmp_path / "report" / "figures", output,
        faults_path=tmp_path / "faults.json", overhead_path=tmp_path / "overhead.json",
    )  # fmt: skip
    return output.read_text()


def findings(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "report" / "findings.json").read_text())
    return found["faults"]


def test_a_sound_campaign_is_told_by_kind_and_phase(tmp_path: Path) -> None:
    text = report(tmp_path, campaign(SOUND))
    said = section(text, "Faults survived")
    claim = (
        "All 4 runs with 4 injected faults of 4 kinds ended in the bits of the undisturbed run; "
        "2 recoveries took 0.25 s in the median and 0.25 s at most."
    )
    assert claim in said
    assert claim in section(text, "The answer")
    assert "| `drop` | 1 of 1 | 1 | 1 |  | 1 of 1 | 2.0 (2.0) | 0.25 (0.25) |" in said
    assert "| `nan` | 1 of 1 | 1 |  | 1 | 1 of 1 |  |  |" in said
    assert "| `delay` | 1 of 1 |  |  |  | 1 of 1 |  |  |" in said
    assert "| `commit` |  | 1 | 1 |  |" in said  # of delay, drop, kill, nan
    assert "| any |  |  |  | 1 |" in said
    assert "What failed" not in said
    data = findings(tmp_path)
    assert data["claims"][0]["outcome"] == "holds"
    assert data["campaign"]["summary"]["passed"] == 4
    assert data["campaign"]["by_phase"]["commit"] == {"kill": 1, "drop": 1}
    assert [kind["detection_s"] for kind in data["campaign"]["by_kind"]] == [[], [2.0], [0.5], []]
    assert data["claims"][0]["claim"] in section(text, "All claims")


def test_a_failing_run_is_named_with_the_command_that_repeats_it(tmp_path: Path) -> None:
    failing = [
        run(4, "flip:rank=0,step=4", final_state_sha256=OTHER, passed=False,
            problem="the final state is not that of the undisturbed run"),
        run(5, "stop:rank=0,step=4,phase=push", passed=False, problem="did not fire: stop",
            faults=[{"fault": "stop", "kind": "stop", "phase": "push", "fired": False}]),
    ]  # fmt: skip
    text = report(tmp_path, campaign([*SOUND, *failing]))
    said = section(text, "Faults survived")
    assert "2 of 6 runs with injected faults did not end as they must" in said
    assert "2 of 6 runs with injected faults" in section(text, "The answer")
    assert (
        "Repeat it: `dmlf faults --runs 5 --seed 7 --only 4 --algorithms ring --transports shm tcp`"
        in said
    )
    assert "did not fire: stop" in said
    assert "| `flip` | 1 of 1 | 1 |  |  | 0 of 1 |" in said
    assert "| `stop` | 0 of 1 | 1 |  |  | 1 of 1 |" in said
    data = findings(tmp_path)
    assert data["claims"][0]["outcome"] == "does not hold"
    assert [failure["run"] for failure in data["campaign"]["failures"]] == [4, 5]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), ({"schema_version": 1}, "the file is not valid")],
)
def test_without_a_campaign_nothing_is_claimed(
    tmp_path: Path, content: dict[str, Any] | None, reason: str
) -> None:
    text = report(tmp_path, content, content)
    said = section(text, "Faults survived")
    assert "No faults were injected" in said
    assert reason in said
    assert "was not measured" in said
    assert "undisturbed" not in said
    assert "fault" not in section(text, "The answer").lower()
    data = findings(tmp_path)
    assert {claim["outcome"] for claim in data["claims"]} == {"no data"}
    assert (data["campaign"], data["overhead"]) == (None, None)


def test_a_summary_that_its_runs_do_not_give_is_no_campaign(tmp_path: Path) -> None:
    content = campaign(SOUND)
    content["summary"]["passed"] = 3
    assert "No faults were injected" in report(tmp_path, content)


def test_the_price_is_told_with_its_target(tmp_path: Path) -> None:
    price = overhead([1.0, 1.01, 1.02, 1.01, 1.0], [1.1, 1.2, 1.15, 1.12, 1.11])
    said = section(report(tmp_path, None, price), "Faults survived")
    assert (
        r"take 1.01 \[1.00, 1.02\] times as long as plain ones: within the target of 1.03" in said
    )
    assert (
        r"take 1.12 \[1.10, 1.20\] times as long as those between, without one: "
        "more than the target of 1.05" in said
    )
    outcomes = [claim["outcome"] for claim in findings(tmp_path)["claims"]]
    assert outcomes == ["no data", "holds", "does not hold"]


def test_hostile_text_stays_in_its_place(tmp_path: Path) -> None:
    hostile = "a | b\n# c <script>alert(1)</script> `d`"
    broken = run(0, "kill:rank=1,step=4", passed=False, problem=hostile)
    text = report(tmp_path, campaign([broken]))
    assert "<script>" not in text
    assert "\n# c" not in text


@pytest.mark.parametrize("content", [None, campaign(SOUND), campaign(SOUND[2:])])
def test_the_figure_is_drawn_the_same_each_time(
    tmp_path: Path, content: dict[str, Any] | None
) -> None:
    pytest.importorskip("matplotlib")
    if content is not None:
        write_json(tmp_path / "faults.json", content)
    drawn = []
    for name in ("one.svg", "two.svg"):
        draw_faults(tmp_path / "faults.json", tmp_path / name)
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]
    assert (tmp_path / "one.png").stat().st_size > 0


def test_a_median_is_drawn_of_three_or_more_recoveries(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from dmlf.benchmark.faults.load import load
    from dmlf.benchmark.plots.faults import render

    for number, medians in ((2, 0), (3, 2)):  # a bar in each of both panels
        runs = [run(n, "kill:rank=1,step=4,phase=commit") for n in range(number)]
        write_json(tmp_path / "faults.json", campaign(runs))
        figure = render(load(tmp_path / "faults.json", None))
        bars = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "|"]
        assert len(bars) == medians
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert any("median" in label for label in labels) == bool(medians)
