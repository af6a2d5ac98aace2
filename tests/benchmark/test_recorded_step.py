"""One step out of a timeline: the calmest, whole, and nothing out of a broken file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.files import write_json
from dmlf.benchmark.recorded_step import read_step
from dmlf.errors import MetricsError
from tests.benchmark.timelines import events, ring_step, work, write_ring, write_server


def test_the_shortest_step_but_the_first_is_taken(tmp_path: Path) -> None:
    step = read_step(write_ring(tmp_path / "timeline.json"))
    assert (step.step, step.candidates, step.world_size) == (1, 2, 3)
    assert [(lane.rank, lane.role) for lane in step.lanes] == [(r, "worker") for r in range(3)]
    assert min(activity.start_us for activity in step.activities) == 0.0
    assert step.duration_us == pytest.approx(10 + 300 + 282)


def test_every_message_goes_from_its_sending_to_its_arrival(tmp_path: Path) -> None:
    step = read_step(write_ring(tmp_path / "timeline.json"))
    assert len(step.messages) == 12
    first = step.messages[0]
    assert (first.phase, first.round, first.src, first.dst) == ("reduce_scatter", 0, 0, 1)
    assert (first.start_us, first.end_us) == (pytest.approx(310), pytest.approx(340))
    rounds = {(m.phase, m.round) for m in step.messages}
    assert rounds == {(p, r) for p in ("reduce_scatter", "all_gather") for r in (0, 1)}


def test_what_follows_a_server_s_answer_belongs_to_the_same_step(tmp_path: Path) -> None:
    step = read_step(write_server(tmp_path / "timeline.json"))
    assert step.step == 1
    assert [lane.role for lane in step.lanes] == ["worker", "worker", "server"]
    names = [activity.name for activity in step.activities if activity.rank == 1]
    assert names[:3] == ["draw samples", "forward and backward", "gradient"]
    assert names[-1] == "write parameters"


def test_a_step_beside_an_evaluation_is_left_out(tmp_path: Path) -> None:
    spans = [*ring_step(0, 0, 100), *ring_step(1, 1000, 10), *ring_step(2, 2000, 900)]
    spans.append(work(0, "evaluate", 950, 990))
    path = tmp_path / "timeline.json"
    write_json(path, events(spans))
    assert read_step(path).step == 2


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.clear(),
        lambda d: d["otherData"].pop("strategy"),
        lambda d: d["otherData"].update(world_size="3"),
        lambda d: d.update(traceEvents=5),
        lambda d: d["traceEvents"].append(None),
        lambda d: d["traceEvents"].append({"ph": "X"}),
        lambda d: d["traceEvents"][5].update(ts="now"),
        lambda d: d["traceEvents"][5].update(ts=10**400),
        lambda d: d["traceEvents"][5].update(dur=-1.0),
        lambda d: d["traceEvents"][5].update(pid=77),
        lambda d: d["traceEvents"][0]["args"].update(name="<script>"),
        lambda d: d.update(traceEvents=[e for e in d["traceEvents"] if e["ph"] == "M"]),
        lambda d: d["traceEvents"][5].update(args={"src": 1}),
    ],
)
def test_a_broken_timeline_is_refused_by_name(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any]
) -> None:
    path = write_ring(tmp_path / "timeline.json")
    change(path, edit)
    with pytest.raises(MetricsError) as refused:
        read_step(path)
    assert str(path) in str(refused.value)


def test_an_absent_timeline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="--timeline"):
        read_step(tmp_path / "timeline.json")
