"""Epochs and training time to the target accuracy: panels for each task and reduction.

Epochs that are the same in every run are said in words.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dmlf.benchmark.cohorts import Cohort, Contestant, cohorts, strategies
from dmlf.benchmark.plots import style
from dmlf.benchmark.plots.series import Mark, add_legend, draw_series, panel_width
from dmlf.benchmark.statistics import median_estimate
from dmlf.benchmark.table import Table

_EPOCHS, _TIME = "epochs_to_target", "time_to_target_s"
_LABELS = {_EPOCHS: "epochs to the target", _TIME: "training time to the target (s)"}


def render(table: Table) -> Figure:
    """Draw every contestant that reached the target, with a dotted line at serial's median."""
    shown = [
        (cohort, reduction, measure)
        for cohort in cohorts(table.runs)
        for reduction in cohort.reductions()
        for measure in _LABELS
        if _worth_a_panel(cohort, reduction, measure)
    ]
    if not shown:
        return style.note("No checked run reached a target accuracy: nothing to show.")
    looks = style.looks(strategies(p for cohort, _, _ in shown for p in cohort.points()))
    most = max(len(_world_sizes(cohort)) for cohort, _, _ in shown)
    width = panel_width(len(looks), most, 4.6)
    figure, panels = style.flow(len(shown), 2, width, 2.8)
    for panel, (cohort, reduction, measure) in zip(panels, shown, strict=True):
        marks = _marks(cohort, reduction, measure)
        panel.set_title(f"{cohort.label}, {reduction}{_in_words(cohort, reduction)}", loc="left")
        draw_series(panel, marks, _world_sizes(cohort), looks)
        panel.set_ylabel(_LABELS[measure])
        panel.set_ylim(0, 1.15 * max(value for mark in marks for value in mark.values))
        panel.yaxis.set_major_locator(MaxNLocator(6, integer=measure == _EPOCHS))
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
    marks = [mark for part in shown for mark in _marks(*part)]
    add_legend(figure, marks, looks, [line])
    return figure


def _worth_a_panel(cohort: Cohort, reduction: str, measure: str) -> bool:
    """Times always; epochs where they differ, or where no time is known."""
    if not _marks(cohort, reduction, measure):
        return False
    alone = not _marks(cohort, reduction, _TIME)
    return measure == _TIME or alone or len(_epochs(cohort, reduction)) > 1


def _in_words(cohort: Cohort, reduction: str) -> str:
    """The epochs of all runs, where they are the same."""
    found = _epochs(cohort, reduction)
    return f"\nreached after {found.pop():g} epochs in every run shown" if len(found) == 1 else ""


def _epochs(cohort: Cohort, reduction: str) -> set[float]:
    return {value for mark in _marks(cohort, reduction, _EPOCHS) for value in mark.values}


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
