"""Scaling efficiency, strong and weak: a panel per experiment, reduction and base."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from dmlf.benchmark.cohorts import Cohort, Contestant, Point, cohorts, strategies
from dmlf.benchmark.plots import style
from dmlf.benchmark.plots.series import Mark, add_legend, draw_series, panel_width
from dmlf.benchmark.statistics import Estimate, efficiency_estimate, median_estimate
from dmlf.benchmark.table import STRONG, Table

_BASES = ("itself at world size 1", "serial")


def render(table: Table) -> Figure:
    """Draw throughput(W) / (W x throughput of the base at world size 1).

    In weak scaling W times the work is done at world size W, so that the same ratio is the time of
    a step at world size 1 over that at W. The base's batch is one rank's there.
    """
    parts = [
        (cohort, reduction, base)
        for cohort in sorted(cohorts(table.runs), key=lambda c: c.experiment != STRONG)
        for reduction in cohort.reductions()
        for base in _BASES
        if _marks(cohort, reduction, base)
    ]
    if not parts:
        return style.note("No checked run at world size 1 to compare with: no efficiency to show.")
    looks = style.looks(strategies(p for cohort, _, _ in parts for p in cohort.points()))
    most = max(len(_world_sizes(cohort)) for cohort, _, _ in parts)
    width = panel_width(len(looks) - 1, most, 4.6)
    figure, panels = style.flow(len(parts), len(_BASES), width, 3.0)
    for panel, (cohort, reduction, base) in zip(panels, parts, strict=True):
        top = max([1.0, *(m.highest for b in _BASES for m in _marks(cohort, reduction, b))])
        experiment = f"{cohort.experiment.capitalize()} scaling: {cohort.task}, {reduction}"
        variant = cohort.label.partition(" (")[2]
        panel.set_title(
            f"{experiment}{f' ({variant}' if variant else ''}\nbase: {base}", loc="left"
        )
        draw_series(panel, _marks(cohort, reduction, base), _world_sizes(cohort), looks)
        _frame(panel, top)
        panel.set_ylabel("efficiency")
    ideal = Line2D([], [], color=style.GREY, linestyle="--", label="ideal: 100 %")
    shown = [mark for part in parts for mark in _marks(*part)]
    add_legend(figure, shown, looks, [ideal])
    return figure


def _world_sizes(cohort: Cohort) -> list[int]:
    return sorted({contestant.world_size for contestant in cohort.contestants()})


def _frame(axes: Axes, top: float) -> None:
    axes.axhline(1.0, color=style.GREY, linestyle="--", linewidth=1.1, zorder=1)
    axes.set_ylim(0, 1.12 * top)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=" %"))


def _marks(cohort: Cohort, reduction: str, base: str) -> list[Mark]:
    marks = []
    for point in cohort.points(reduction):
        strategy, size = point.contestant.strategy, point.contestant.world_size
        reference = _base(cohort, point, base)
        if strategy == "serial" or reference is None:
            continue
        median = median_estimate(reference.throughput).median
        marks.append(
            Mark(
                strategy,
                size,
                [value / (size * median) for value in point.throughput],
                # A base relative to itself is 1 by definition, whatever its runs' noise.
                Estimate(1.0, None, None, len(point.runs))
                if reference.contestant == point.contestant
                else efficiency_estimate(point.throughput, size, reference.throughput),
                point.oversubscribed,
            )
        )
    return marks


def _base(cohort: Cohort, point: Point, base: str) -> Point | None:
    strategy = "serial" if base == "serial" else point.contestant.strategy
    return cohort.point(Contestant(strategy, point.contestant.reduction, 1))
