"""Where the time of a step goes: stacked bars, a panel per task and reduction that was run."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dmlf.benchmark.cohorts import Cohort, Point, cohorts
from dmlf.benchmark.plots import palette, style
from dmlf.benchmark.statistics import median_estimate
from dmlf.benchmark.table import Table

_HEIGHT = 0.66
# Name, colour and hatch of each part, in the order of a step.
_PARTS = (
    ("data, forward, backward", style.BLUE, ""),
    ("reduce and send", style.ORANGE, "////"),
    ("waiting to receive", palette.STRAW, "...."),
    ("communication, not split", style.GREY, "xxxx"),
    ("optimizer", style.GREEN, "\\\\\\\\"),
    ("other", style.PALE, ""),
)


def render(table: Table) -> Figure:
    """Draw the median step of every contestant, split into its parts, in milliseconds."""
    shown = [
        (cohort, reduction) for cohort in cohorts(table.runs) for reduction in cohort.reductions()
    ]
    if not shown:
        return style.note("No run with a passed correctness check: there is no time to show.")
    tasks = list(dict.fromkeys(cohort.label for cohort, _ in shown))
    reductions = [r for r in ("float32", "exact") if any(r == other for _, other in shown)]
    slots = dict.fromkeys(tasks, 0.0)
    for cohort, reduction in shown:
        last = _places(_sorted(cohort, reduction))[0][-1]
        slots[cohort.label] = max(slots[cohort.label], 1 + last)
    width = 7.6 if len(reductions) == 1 else 5.4
    figure, axes = style.panels(
        len(reductions), width, [0.9 + 0.27 * count for count in slots.values()]
    )
    for panel in (panel for row in axes for panel in row):
        panel.set_visible(False)
    for cohort, reduction in shown:
        panel = axes[tasks.index(cohort.label)][reductions.index(reduction)]
        panel.set_visible(True)
        panel.set_title(f"{cohort.label}, {reduction} reduction")
        _draw(panel, cohort, reduction, slots[cohort.label])
    points = [point for cohort, reduction in shown for point in cohort.points(reduction)]
    style.legend(figure, _part_keys(points), _reading_keys(points))
    return figure


def _draw(axes: Axes, cohort: Cohort, reduction: str, slots: float) -> None:
    points = _sorted(cohort, reduction)
    longest = max(max(point.values("step_time_s")) for point in cohort.points()) * 1e3
    places, labels = _places(points)
    for y, point in zip(places, points, strict=True):
        left = 0.0
        # White under pale parts, or the grid would show through.
        axes.barh(y, sum(_parts_ms(point)), height=_HEIGHT, color="white", zorder=1.5)
        alpha = 0.45 if point.oversubscribed else 1.0
        for (_, color, hatch), width in zip(_PARTS, _parts_ms(point), strict=True):
            axes.barh(
                y,
                width,
                left=left,
                height=_HEIGHT,
                color=color,
                alpha=alpha,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.3,
                zorder=2,
            )
            left += width
        times = [1e3 * value for value in point.values("step_time_s")]
        whole = median_estimate(times)
        axes.plot(
            times,
            [y] * len(times),
            linestyle="",
            marker="o",
            markersize=3.2,
            color=style.INK,
            markerfacecolor="white" if point.oversubscribed else style.INK,
            markeredgewidth=0.7,
            zorder=4,
        )
        if whole.low is not None and whole.high is not None:
            axes.hlines(y, whole.low, whole.high, color=style.INK, linewidth=1.2, zorder=3)
    axes.set_yticks(places, labels)
    axes.set_ylim(slots - 0.4, -0.6)
    axes.set_xlim(0, 1.05 * longest)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time of a step (ms)")


def _sorted(cohort: Cohort, reduction: str) -> list[Point]:
    return sorted(
        cohort.points(reduction),
        key=lambda p: (p.contestant.strategy != "serial", p.contestant.world_size),
    )


def _places(points: Sequence[Point]) -> tuple[list[float], list[str]]:
    """Vertical places, with a gap between world sizes, and the bars' names."""
    places, labels = [], []
    y, previous = 0.0, points[0].contestant.world_size
    for point in points:
        strategy, size = point.contestant.strategy, point.contestant.world_size
        y += 0.45 if size != previous else 0.0
        previous = size
        calibrated = "*" if _calibrated(point) else ""
        labels.append("serial" if strategy == "serial" else f"{strategy}{calibrated}, W = {size}")
        places.append(y)
        y += 1.0
    return places, labels


def _parts_ms(point: Point) -> tuple[float, ...]:
    """Medians of the parts over runs; what they leave of the median step is `other`.

    What is calibrated is not split: only its sum is known.

    Communication that ran beside computation is not drawn: it took no time of its own.
    """

    def median(column: str) -> float:
        return 1e3 * median_estimate(point.values(column)).median

    compute = median("data_s") + median("forward_backward_s")
    exposed = max(0.0, median("communication_s") - median("hidden_s"))
    waiting = min(median("wait_s"), exposed)
    optimizer = median("optimizer_s")
    rest = median("step_time_s") - compute - exposed - optimizer
    split = (0.0, 0.0, exposed) if _calibrated(point) else (exposed - waiting, waiting, 0.0)
    return compute, *split, optimizer, max(0.0, rest)


def _calibrated(point: Point) -> bool:
    return point.runs[0].phase_source == "calibrated"


def _part_keys(points: Sequence[Point]) -> list[Patch]:
    """Entries of the parts that some bar has."""
    longest = [max(parts) for parts in zip(*map(_parts_ms, points), strict=True)]
    return [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", label=name)
        for (name, color, hatch), length_ms in zip(_PARTS, longest, strict=True)
        if length_ms > 0
    ]


def _reading_keys(points: Sequence[Point]) -> list[Line2D]:
    entries = [
        Line2D([], [], color=style.INK, marker="o", markersize=3.2, linestyle="", label="one run")
    ]
    if any(len(point.runs) > 1 for point in points):
        entries.append(Line2D([], [], color=style.INK, label="95 % interval"))
    if any(point.oversubscribed for point in points):
        entries.append(
            Line2D(
                [],
                [],
                color=style.INK,
                marker="o",
                markersize=3.2,
                markerfacecolor="white",
                linestyle="",
                label="pale: oversubscribed",
            )
        )
    if any(map(_calibrated, points)):
        entries.append(Line2D([], [], linestyle="", label="* calibrated, not measured"))
    return entries
