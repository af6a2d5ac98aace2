"""Figures: reproducible, complete, and honest about what they leave out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dmlf.benchmark.plots import FIGURES, draw
from dmlf.benchmark.table import Table, write_table
from dmlf.errors import ConfigError, MetricsError
from tests.benchmark.rows import one_cohort, rows

pytest.importorskip("matplotlib")


def render(name: str, table: Table) -> Any:
    with import_module("dmlf.benchmark.plots.style").paper():
        return import_module(f"dmlf.benchmark.plots.{name}").render(table)


def texts(figure: Any) -> str:
    from matplotlib.text import Text

    return " | ".join(item.get_text() for item in figure.findobj(Text))


@pytest.mark.parametrize("name", FIGURES)
def test_same_table_same_bytes(matrix_table_path: Path, tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        draw(name, matrix_table_path, tmp_path / folder / f"{name}.svg")
    for suffix in (".svg", ".png"):
        first = (tmp_path / "a" / name).with_suffix(suffix).read_bytes()
        assert first == (tmp_path / "b" / name).with_suffix(suffix).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        f"{name}.png",
        f"{name}.svg",
    ]


def test_more_servers_make_a_line_of_their_own() -> None:
    one = rows("parameter_server-queue", 2, [100.0, 101.0])
    two = rows("parameter_server-queue, 2 servers", 2, [150.0, 151.0], num_servers=2)
    figure = render("throughput", Table((*rows("serial", 1, [90.0]), *one, *two), ()))
    assert "parameter_server-queue, 2 servers" in texts(figure)
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    medians = [y for ys in lines.values() for y in ys]
    assert 125.5 not in medians  # the median of all four, were they repeats of one point
    assert {100.5, 150.5} <= set(medians)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("check", ["failed", "absent"])
def test_without_checked_runs_a_figure_says_so(tmp_path: Path, name: str, check: str) -> None:
    table = Table(tuple(rows("serial", 1, [100.0], check=check)), ())
    path = tmp_path / "runs.csv"
    write_table(path, table)
    draw(name, path, tmp_path / f"{name}.svg")
    assert "o" in texts(render(name, table))
    assert not any(axes.lines or axes.patches for axes in render(name, table).axes)


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_table_gives_a_figure(tmp_path: Path, name: str) -> None:
    path = tmp_path / "runs.csv"
    write_table(path, Table((), ()))
    draw(name, path, tmp_path / f"{name}.svg")
    assert (tmp_path / f"{name}.png").stat().st_size > 0


def test_bad_requests_are_named(matrix_table_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        draw("speed", matrix_table_path, tmp_path / "speed.svg")
    assert caught.value.key == "figure"
    with pytest.raises(ConfigError) as caught:
        draw("throughput", matrix_table_path, tmp_path / "throughput.pdf")
    assert caught.value.key == "output"
    with pytest.raises(MetricsError):
        draw("throughput", tmp_path / "absent.csv", tmp_path / "throughput.svg")
    assert list(tmp_path.iterdir()) == []


def small_table() -> Table:
    return Table(
        (
            *rows("serial", 1, [100.0, 101.0]),
            *rows("ring-queue", 1, [90.0, 91.0]),
            *rows("ring-queue", 2, [150.0, 151.0, 152.0]),
            *rows("ring-queue", 4, [120.0], oversubscribed=True),
            *rows("ring-queue", 8, [999.0], check="failed"),
        ),
        (),
    )


def test_every_run_is_a_dot_and_crowded_points_are_hollow() -> None:
    (axes,) = render("throughput", small_table()).axes
    dots = [line for line in axes.lines if line.get_markersize() < 3]
    drawn = sorted(y for line in dots for y in line.get_ydata())
    assert drawn == [90.0, 91.0, 100.0, 101.0, 120.0, 150.0, 151.0, 152.0]
    medians = {
        float(line.get_ydata()[0]): line.get_markerfacecolor()
        for line in axes.lines
        if len(line.get_ydata()) == 1 and line.get_markersize() > 3
    }
    assert set(medians) == {100.5, 90.5, 151.0, 120.0}
    assert [median for median, face in medians.items() if face == "white"] == [120.0]


def test_the_axis_shows_every_run_and_starts_at_zero() -> None:
    (axes,) = render("throughput", small_table()).axes
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert 152.0 < top < 999.0
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8"]


def test_the_ideal_line_is_world_size_times_serial() -> None:
    (axes,) = render("throughput", small_table()).axes
    lines = [list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "--"]
    assert [100.5, 201.0, 402.0, 804.0] in lines


def test_the_ceiling_is_a_line_and_no_point() -> None:
    top = rows("unsynchronized", 2, [190.0, 195.0, 199.0], check="ceiling")
    table = Table((*small_table().runs, *top), ())
    figure = render("throughput", table)
    (axes,) = figure.axes
    lines = [path.vertices.tolist() for c in axes.collections for path in c.get_paths()]
    assert [[0.55, 195.0], [1.45, 195.0]] in lines
    assert not [drawn for drawn in axes.lines if 195.0 in drawn.get_ydata()]
    assert axes.get_ylim()[1] > 199.0
    assert "no synchronisation" in texts(figure)
    assert "no synchronisation" not in texts(render("throughput", small_table()))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8"]


def test_efficiency_has_both_bases() -> None:
    itself, serial = render("efficiency", small_table()).axes
    for axes, base in ((itself, 90.5), (serial, 100.5)):
        expected = [speed / (2 * base) for speed in (150.0, 151.0, 152.0)]
        lines = [[float(y) for y in line.get_ydata()] for line in axes.lines]
        assert any(line == pytest.approx(expected) for line in lines)
        assert any(line == pytest.approx(expected[1:2]) for line in lines)
    assert "itself" in itself.get_title(loc="left")
    assert "serial" in serial.get_title(loc="left")


def test_different_workloads_are_never_in_one_panel() -> None:
    table = Table(
        (*rows("serial", 1, [100.0]), *rows("serial", 1, [900.0], cohort="ba9876543210")), ()
    )
    first, second = render("throughput", table).axes
    assert first.get_ylim()[1] < 900 < second.get_ylim()[1]
    assert first.get_title(loc="left") != second.get_title(loc="left")


def test_exactness_draws_ratios(matrix_table: Table) -> None:
    speed, traffic = render("exactness", matrix_table).axes
    assert 0 < min(y for line in speed.lines for y in line.get_ydata() if y == y) < 1
    ratios = {float(y) for line in traffic.lines for y in line.get_ydata() if y == y}
    assert ratios == {1.0, 1.5}


def test_ddp_is_marked_as_calibrated(matrix_table: Table) -> None:
    labels = texts(render("communication", matrix_table))
    assert "ddp-gloo*, W = 2" in labels
    assert "ring-queue, W = 2" in labels
    assert "calibrated" in labels


def test_convergence_of_a_task_without_accuracy() -> None:
    from dataclasses import replace

    runs = rows("serial", 1, [100.0]) + rows("ring-queue", 2, [100.0])
    from dmlf.benchmark.table import EpochRow

    epochs = tuple(
        EpochRow(
            path=run.path, task=run.task, cohort=run.cohort or "", strategy=run.strategy,
            reduction=run.reduction, world_size=run.world_size, seed=0, rep=run.rep,
            check="passed", epoch=epoch, train_loss=None, test_loss=0.5, test_accuracy=None,
            elapsed_s=float(epoch),
        )
        for run in runs
        for epoch in (0, 1)
    )  # fmt: skip
    drawn = texts(render("convergence", Table(tuple(runs), epochs)))
    assert "test loss (log scale)" in drawn
    assert "accuracy" not in drawn
    alone = tuple(replace(row, test_loss=0.0) for row in epochs if row.strategy == "serial")
    assert "serial" in texts(render("convergence", Table(tuple(runs[:1]), alone)))


def test_weak_and_strong_scaling_are_named_with_their_bases() -> None:
    weak = {"experiment": "weak", "samples_per_rank": 64, "cohort": "ba9876543210"}
    runs = (
        *rows("serial", 1, [100.0], task="digits_weak", **weak),
        *rows("ring-queue", 2, [150.0], task="digits_weak", **weak),
        *small_table().runs,
    )
    titles = [a.get_title(loc="left") for a in render("efficiency", Table(runs, ())).axes]
    assert titles == [
        "Strong scaling: digits, float32\nbase: itself at world size 1",
        "Strong scaling: digits, float32\nbase: serial",
        "Weak scaling: digits_weak, float32\nbase: serial",
    ]
    serial = render("efficiency", Table(runs, ())).axes[2]
    assert 0.75 in {float(y) for line in serial.lines for y in line.get_ydata()}


def test_the_target_is_drawn_in_epochs_and_time() -> None:
    runs = (
        *rows("serial", 1, [100.0], epochs_to_target=9, time_to_target_s=3.0),
        *rows("ring-queue", 2, [150.0], epochs_to_target=11, time_to_target_s=2.0),
        *rows("ring-queue", 4, [150.0]),
    )
    epochs, time = render("target", Table(runs, ())).axes
    for axes, values in ((epochs, {9.0, 11.0}), (time, {3.0, 2.0})):
        drawn = {float(y) for line in axes.lines for y in line.get_ydata() if y == y}
        assert drawn == values


def test_epochs_that_are_the_same_in_every_run_are_said_and_not_drawn() -> None:
    runs = (
        *rows("serial", 1, [100.0], epochs_to_target=9, time_to_target_s=3.0),
        *rows("ring-queue", 2, [150.0], epochs_to_target=9, time_to_target_s=2.0),
    )
    (time,) = render("target", Table(runs, ())).axes
    assert "reached after 9 epochs in every run shown" in time.get_title(loc="left")
    assert time.get_ylabel().startswith("training time")


def test_no_panel_is_empty() -> None:
    weak = {"experiment": "weak", "samples_per_rank": 64, "cohort": "ba9876543210"}
    runs = (
        *small_table().runs, *rows("serial", 1, [50.0], "exact"),
        *rows("ring-queue", 2, [60.0], "exact"),
        *rows("serial", 1, [100.0], task="digits_weak", **weak),
    )  # fmt: skip
    for name, panels in (("throughput", 3), ("efficiency", 3), ("exactness", 1)):
        axes = render(name, Table(runs, ())).axes
        assert len(axes) == panels
        assert all(panel.lines for panel in axes)


def test_convergence_has_a_panel_by_epoch_and_one_by_time_for_each_world_size(
    matrix_table: Table,
) -> None:
    figure = render("convergence", matrix_table)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    expected = ["by epoch, all runs", *(f"by time, {n} worker{'s' * (n > 1)}" for n in (1, 2, 4))]
    assert [title.partition("\n")[2] for title in titles] == 2 * expected
    # By epoch every run: serial and three strategies at three sizes, 5 each; by time one of each.
    assert [len(axes.lines) for axes in figure.axes[:4]] == [50, 8, 8, 8]


def test_contestants_of_a_world_size_stand_around_its_place() -> None:
    (axes,) = render("throughput", small_table()).axes
    places = {
        float(line.get_ydata()[0]): float(line.get_xdata()[0])
        for line in axes.lines
        if len(line.get_ydata()) == 1 and line.get_markersize() > 3
    }
    assert places[151.0] == 1.0  # alone at world size 2
    assert places[100.5] == -places[90.5] < 0


def test_what_is_not_split_has_a_part_of_its_own() -> None:
    from dmlf.benchmark.plots.communication import _PARTS, _parts_ms

    times = {
        "data_s": 0.001, "forward_backward_s": 0.002, "communication_s": 0.004, "wait_s": 0.001,
        "hidden_s": 0.0, "optimizer_s": 0.001, "step_time_s": 0.008,
    }  # fmt: skip
    cohort = one_cohort(
        rows("ring-queue", 2, [1.0], phase_source="measured", **times),
        rows("ddp-gloo", 2, [1.0], phase_source="calibrated", **times),
    )
    ring, ddp = (_parts_ms(point) for point in cohort.points())
    assert ring == pytest.approx((3.0, 3.0, 1.0, 0.0, 1.0, 0.0))
    assert ddp == pytest.approx((3.0, 0.0, 0.0, 4.0, 1.0, 0.0))
    assert len({hatch for _, _, hatch in _PARTS if hatch}) == 4
