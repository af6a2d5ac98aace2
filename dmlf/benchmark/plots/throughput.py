"""Throughput over world size: a panel per task and reduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmlf.benchmark.cohorts import Cohort, Contestant, Point, cohorts, strategies
from dmlf.benchmark.plots import style
from dmlf.benchmark.plots.series import Mark, add_legend, draw_series, panel_width
from dmlf.benchmark.statistics import median_estimate
from dmlf.benchmark.table import Table

_CEILING_LINE: Mapping[str, Any] = {"color": style.INK, "linestyle": "-", "linewidth": 1.4}


def render(table: Table) -> Figure:
    """Draw samples per second of every strategy, under the ideal and the measured ceiling.

    The ideal is W times serial; the ceiling is what W ranks reach that never synchronise.
    """
    shown = [cohort for cohort in cohorts(table.runs) if cohort.points()]
    if not shown:
        return style.note("No run with a passed correctness check: there is no speed to show.")
    parts = [(cohort, reduction) for cohort in shown for reduction in cohort.reductions()]
    looks = style.looks(strategies(point for cohort in shown for point in cohort.points()))
    sizes = max(len(_world_sizes(cohort)) for cohort in shown)
    width = panel_width(len(looks), sizes, 6.4 if len(parts) == 1 else 4.6)
    figure, panels = style.flow(len(parts), 2, width, 3.3)
    for panel, (cohort, reduction) in zip(panels, parts, strict=True):
        panel.set_title(f"{cohort.label}, {reduction} reduction")
        draw_series(panel, _marks(cohort, reduction), _world_sizes(cohort), looks)
        _ideal(panel, cohort, reduction)
        if reduction == "float32":
            _ceiling(panel, cohort)
        panel.set_ylabel("throughput (samples/s)")
    ideal = Line2D([], [], color=style.GREY, linestyle="--", label="ideal: world size x serial")
    marks = [m for cohort, r in parts for m in _marks(cohort, r)]
    lines = [ideal]
    if any(_ceilings(cohort) for cohort in shown):
        lines.append(style.line_key(_CEILING_LINE, "ceiling: same ranks, no synchronisation"))
    add_legend(figure, marks, looks, lines)
    return figure


def _world_sizes(cohort: Cohort) -> list[int]:
    return sorted({contestant.world_size for contestant in cohort.contestants()})


def _marks(cohort: Cohort, reduction: str) -> list[Mark]:
    return [
        Mark(
            point.contestant.strategy,
            point.contestant.world_size,
            point.throughput,
            median_estimate(point.throughput),
            point.oversubscribed,
        )
        for point in cohort.points(reduction)
    ]


def _ceilings(cohort: Cohort) -> list[Point]:
    found = (cohort.ceiling(size) for size in _world_sizes(cohort))
    return [point for point in found if point is not None]


def _ceiling(axes: Axes, cohort: Cohort) -> None:
    """Draw the ceiling across the place of each world size."""
    for point in _ceilings(cohort):
        place = _world_sizes(cohort).index(point.contestant.world_size)
        estimate = median_estimate(point.throughput)
        across = (place - 0.45, place + 0.45)
        if estimate.low is not None and estimate.high is not None:
            axes.fill_between(
                across, estimate.low, estimate.high, color=style.INK, alpha=0.12, linewidth=0
            )
        axes.hlines(estimate.median, *across, **_CEILING_LINE, zorder=2)


def _ideal(axes: Axes, cohort: Cohort, reduction: str) -> None:
    # The line may leave the panel: making room for all of it would squeeze the data together.
    highest = max(max(point.throughput) for point in [*cohort.points(), *_ceilings(cohort)])
    axes.set_ylim(0, 1.15 * highest)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    serial = cohort.point(Contestant("serial", reduction, 1))
    if serial is None:
        return
    base = median_estimate(serial.throughput).median
    sizes = _world_sizes(cohort)
    axes.axhline(base, color=style.BLACK, linestyle=(0, (1, 1.5)), linewidth=0.9, zorder=1)
    axes.plot(
        range(len(sizes)),
        [base * size for size in sizes],
        color=style.GREY,
        linestyle="--",
        linewidth=1.1,
        zorder=1,
    )
