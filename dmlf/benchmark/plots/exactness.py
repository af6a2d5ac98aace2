"""What exact reduction costs: a panel for throughput and one for bytes, exact over float32."""

from __future__ import annotations

from matplotlib.figure import Figure

from dmlf.benchmark.cohorts import Cohort, Contestant, Point, cohorts, strategies
from dmlf.benchmark.plots import style
from dmlf.benchmark.plots.series import Mark, add_legend, draw_series
from dmlf.benchmark.statistics import median_estimate, ratio_estimate
from dmlf.benchmark.table import Table

_SPEED = "throughput_samples_per_s"
_VIEWS = (
    (_SPEED, "speed", "throughput, exact / float32"),
    ("payload_bytes_per_step", "traffic", "payload bytes, exact / float32"),
)


def render(table: Table) -> Figure:
    """Draw both ratios; 1 means that the same bits at every world size cost nothing."""
    shown = [cohort for cohort in cohorts(table.runs) if _marks(cohort, _SPEED)]
    if not shown:
        return style.note("No strategy has checked runs with both float32 and exact reduction.")
    looks = style.looks(strategies(p for cohort in shown for p in cohort.points("exact")))
    parts = [(c, view) for c in shown for view in _VIEWS if _marks(c, view[0])]
    figure, panels = style.flow(len(parts), 2, 4.6, 3.0)
    for panel, (cohort, (measure, title, label)) in zip(panels, parts, strict=True):
        sizes = sorted({contestant.world_size for contestant in cohort.contestants()})
        marks = _marks(cohort, measure)
        panel.set_title(f"{cohort.label}: {title}")
        draw_series(panel, marks, sizes, looks)
        panel.axhline(1.0, color=style.GREY, linestyle="--", linewidth=1.1, zorder=1)
        panel.set_ylim(0, 1.15 * max([1.0, *(mark.highest for mark in marks)]))
        panel.set_ylabel(label)
    marks = [mark for cohort in shown for mark in _marks(cohort, _SPEED)]
    add_legend(figure, marks, looks)
    return figure


def _marks(cohort: Cohort, column: str) -> list[Mark]:
    marks = []
    for point in cohort.points("exact"):
        strategy, size = point.contestant.strategy, point.contestant.world_size
        plain = cohort.point(Contestant(strategy, "float32", size))
        exact_values = point.values(column)
        plain_values = _positive(plain, column)
        if not exact_values or not plain_values:
            continue
        median = median_estimate(plain_values).median
        marks.append(
            Mark(
                strategy,
                size,
                [value / median for value in exact_values],
                ratio_estimate(exact_values, plain_values),
                point.oversubscribed,
            )
        )
    return marks


def _positive(point: Point | None, column: str) -> list[float]:
    """The values to divide by: a strategy that sends nothing has no ratio of bytes."""
    return [] if point is None else [value for value in point.values(column) if value > 0]
