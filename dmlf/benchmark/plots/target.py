"""Epochs and training time to the target accuracy: a row of panels per task and reduction."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlf.benchmark.cohorts import Cohort, Contestant, cohorts, strategies
from dmlf.benchmark.plots import style
from dmlf.benchmark.plots.series import Mark, add_legend, draw_series, panel_width
from dmlf.benchmark.statistics import median_estimate
from dmlf.benchmark.table import Table

_VIEWS = (
    ("epochs_to_target", "epochs to the target"),
    ("time_to_target_s", "training time to the target (s)"),
)


def render(table: Table) -> Figure:
    """Draw every contestant that reached the target, with a dotted line at serial's median."""
    shown = [
        (cohort, reduction)
        for cohort in cohorts(table.runs)
        for reduction in cohort.reductions()
        if _marks(cohort, reduction, "epochs_to_target")
    ]
    if not shown:
        return style.note("No checked run reached a target accuracy: nothing to show.")
    looks = style.looks(strategies(p for cohort, _ in shown for p in cohort.points()))
    most = max(len(_world_sizes(cohort)) for cohort, _ in shown)
    width = panel_width(len(looks), most, 4.6)
    figure, axes = style.panels(len(_VIEWS), width, [2.8] * len(shown))
    for row, (cohort, reduction) in enumerate(shown):
        for column, (measure, label) in enumerate(_VIEWS):
            panel = axes[row][column]
            marks = _marks(cohort, reduction, measure)
            panel.set_title(f"{cohort.label}, {reduction}")
            draw_series(panel, marks, _world_sizes(cohort), looks)
            if not marks:
                continue
            panel.set_ylabel(label)
            panel.set_ylim(0, 1.15 * max(value for mark in marks for value in mark.values))
            panel.yaxis.set_major_locator(MaxNLocator(6, integer=measure == "epochs_to_target"))
            serial = cohort.point(Contestant("serial", reduction, 1))
            if serial is not None and serial.values(measure):
                panel.axhline(
                    median_estimate(serial.values(measure)).median,
                    color=style.BLACK,
                    linestyle=(0, (1, 1.5)),
                    linewidth=0.9,
                    zorder=1,
                )
    line = Line2D([], [], color=style.BLACK, linestyle=(0, (1, 1.5)), label="median of serial")
    marks = [m for cohort, r in shown for m in _marks(cohort, r, "epochs_to_target")]
    add_legend(figure, marks, looks, [line])
    return figure


def _world_sizes(cohort: Cohort) -> list[int]:
    return sorted({contestant.world_size for contestant in cohort.contestants()})


def _marks(cohort: Cohort, reduction: str, measure: str) -> list[Mark]:
    return [
        Mark(
            point.contestant.strategy,
            point.contestant.world_size,
            point.values(measure),
            median_estimate(point.values(measure)),
            point.oversubscribed,
        )
        for point in cohort.points(reduction)
        if point.values(measure)
    ]
