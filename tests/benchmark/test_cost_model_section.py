"""What the report says of the cost model and of the projection, or why it says nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dmlf.benchmark.collective.load import Loaded
from dmlf.benchmark.cost_model import judged
from dmlf.benchmark.cost_model.judged import judge_models
from dmlf.benchmark.cost_model.samples import CollectiveSample, coefficients
from dmlf.benchmark.projection.rows import Row
from dmlf.benchmark.report import cost_model, projection
from dmlf.benchmark.report.material import Material, Places
from dmlf.benchmark.table import Table

LATENCY_S, S_PER_BYTE = 2e-5, 1e-10
SIZES = [1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22, 1 << 24]


class Config:
    strategies = ("ring-shm", "ring-tcp")


class Record:
    """As much of a record as the model looks at."""

    config = Config()


def samples(error: float) -> list[CollectiveSample]:
    """Times as the model has them, those of every other size off by `error`."""
    found = []
    for index, size in enumerate(SIZES):
        rounds, carried, _ = coefficients("ring", 2, size)
        seconds = (rounds * LATENCY_S + carried * S_PER_BYTE) * (1 + error * (index % 2))
        found.append(CollectiveSample("ring", "shm", 2, size, (seconds,) * 5))
    return found


def material(**changes: object) -> Material:
    places = Places("report/figures", "figures", "report/report.md")
    values = {"collectives": Loaded(None, "it was never made")} | changes
    return Material(Table((), ()), (), places, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("error", "verdict"), [(0.0, "within the aim"), (0.5, "above the aim")])
def test_held_out_sizes_decide_what_is_said(
    monkeypatch: pytest.MonkeyPatch, error: float, verdict: str
) -> None:
    monkeypatch.setattr(
        judged, "samples_of", lambda record, name: samples(error) if name == "shm" else []
    )
    (model,) = judge_models(Record())  # type: ignore[arg-type]
    assert [sample.num_bytes for sample in model.seen] == SIZES[::2]
    assert [sample.num_bytes for sample in model.held_out] == SIZES[1::2]
    assert model.calibration.latency_s.median == pytest.approx(LATENCY_S, rel=1e-3)
    assert model.errors.median == pytest.approx(1 - 1 / (1 + error), abs=1e-3)
    blocks = "\n".join(cost_model.section(material(collectives=Loaded(Record(), ""))))  # type: ignore[arg-type]
    assert verdict in blocks
    assert f"{100 * model.errors.median:.0f} %" in blocks


def test_without_a_record_there_is_no_model_and_it_is_said_why() -> None:
    assert "it was never made" in "\n".join(cost_model.section(material()))


def row(world_size: int, efficiency: float, scaling: str = "weak") -> Row:
    return Row(
        algorithm="ring", num_servers=0, scaling=scaling, world_size=world_size,  # type: ignore[arg-type]
        num_hosts=world_size, method="simulated", step_s=1.0, compute_s=efficiency,
        straggling_s=0.0, exposed_communication_s=1.0 - efficiency,
        throughput_samples_per_s=32.0 * world_size, efficiency=efficiency,
        bottleneck="port bandwidth", bottleneck_gain=0.4,
    )  # fmt: skip


def test_the_projection_says_where_efficiency_ends_and_why() -> None:
    rows = (row(1, 1.0), row(8, 0.85), row(64, 0.61), row(2, 1.0, "strong"))
    found = projection.Projection({"link": "ethernet-10g", "samples_per_rank": 32}, rows, ())
    text = "\n".join(projection.section(material(projection=found)))
    assert (
        "`ring` (weak scaling): at least 80 % efficient up to 8 ranks; at 64 it is 61.0 %, where "
        "port bandwidth twice as good would take " in text
    )
    assert "strong scaling" not in text
    assert "4 projected points" in text


@pytest.mark.parametrize("content", [None, "{", '{"kind": "other"}'])
def test_an_absent_or_broken_projection_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "projection.json"
    if content is not None:
        path.write_text(content)
    text = "\n".join(projection.section(material(**projection.loaded(path))))
    assert "There is no projection to show" in text
    assert "projection.json" in text


def test_a_contestant_that_is_never_efficient_is_named_too() -> None:
    found = projection.Projection({"link": "ethernet-10g"}, (row(1, 0.7), row(8, 0.3)), ())
    text = "\n".join(projection.section(material(projection=found)))
    assert "`ring` (weak scaling): less than 80 % efficient at every size: 70 % at 1 rank" in text


def test_what_is_projected_of_several_is_said_once() -> None:
    rows = (row(1, 0.7), row(1, 0.7, "strong"), replace(row(1, 0.7), algorithm="tree"))
    found = projection.Projection({"link": "ethernet-10g"}, rows, ())
    text = "\n".join(projection.section(material(projection=found)))
    assert text.count("less than 80 % efficient") == 1
    assert "`ring` (weak and strong scaling); `tree` (weak scaling): less than 80 %" in text


def test_no_two_projected_contestants_look_alike() -> None:
    pytest.importorskip("matplotlib")
    from dmlf.benchmark.plots.projected_efficiency import projected_looks

    names = ["ring", *(f"parameter_server, {n} server{'s' * (n > 1)}" for n in (1, 8, 64))]
    looks = projected_looks([*names, "tree"]).values()
    assert len({look.color for look in looks}) == 5


def test_hollow_is_not_used_for_what_is_held_out_or_from_a_closed_form() -> None:
    pytest.importorskip("matplotlib")
    from dmlf.benchmark.plots import style
    from dmlf.benchmark.plots.cost_model import _reading_keys
    from dmlf.benchmark.plots.projected_efficiency import projected_looks, reading_keys

    assert "white" not in {key.get_markerfacecolor() for key in [*reading_keys(), *_reading_keys()]}
    taken = {style.GREEN, style.PURPLE, style.SKY}  # ddp, ring-shm and ring-tcp in other figures
    names = [f"parameter_server, {n} servers" for n in range(2, 8)]
    assert not taken & {look.color for look in projected_looks(names).values()}
    assert len(set(projected_looks(names).values())) == 6


@pytest.mark.parametrize(
    ("beyond", "said", "not_said"),
    [
        (4.0, "Bandwidth falls beyond 256 KiB, as it does where vectors leave", "no reason"),
        (0.1, "Bandwidth is higher beyond 256 KiB: smaller vectors cost more", "falls"),
        (1.0, "within the aim", "Bandwidth "),
    ],
)
def test_a_knee_is_explained_by_the_way_the_bandwidth_goes(
    monkeypatch: pytest.MonkeyPatch, beyond: float, said: str, not_said: str
) -> None:
    knee, s_per_byte = 1 << 18, 1e-9
    found = []
    for size in SIZES:
        rounds, carried, _ = coefficients("ring", 2, size)
        share = min(1.0, knee / size)
        byte_s = s_per_byte * (share + beyond * (1 - share))
        seconds = rounds * LATENCY_S + carried * byte_s
        found.append(CollectiveSample("ring", "shm", 2, size, (seconds,) * 5))
    monkeypatch.setattr(judged, "samples_of", lambda record, name: found * (name == "shm"))
    blocks = "\n".join(cost_model.section(material(collectives=Loaded(Record(), ""))))  # type: ignore[arg-type]
    (line,) = [line for line in blocks.splitlines() if line.startswith("- `shm`")]
    assert said in line
    assert not_said not in line
    parameters = 2 if beyond == 1.0 else 3
    assert f"{parameters} parameters fitted to 3 points" in line
    assert f"| `shm` | 3 / {parameters} |" in blocks
    assert ("| 256 KiB |" in blocks) == (beyond != 1.0)
