"""What all figures share: colours, markers, panels, legends, and how a point is drawn.

Each strategy has its own colour (see `palette`), marker and dashes, so that print without colour
works.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmlf.benchmark.cohorts import strategy_order
from dmlf.benchmark.plots import palette
from dmlf.benchmark.statistics import Estimate

INK = palette.INK
GREY = palette.GREY
PALE = palette.PALE
BLACK = palette.BLACK
ORANGE = palette.ORANGE
SKY = palette.SKY
GREEN = palette.GREEN
BLUE = palette.BLUE
VERMILION = palette.VERMILION
PURPLE = palette.PURPLE

Dashes = tuple[float, Sequence[float]]
SOLID: Dashes = (0, ())


@dataclass(frozen=True, slots=True)
class Look:
    """How one strategy is drawn everywhere."""

    color: str
    marker: str
    dashes: Dashes


_KNOWN: Mapping[str, Look] = {
    "serial": Look(BLACK, "D", (0, (1, 1.5))),
    "parameter_server-queue": Look(VERMILION, "s", (0, (5, 1.5))),
    "parameter_server-shm": Look(ORANGE, "P", (0, (5, 1.5))),
    "parameter_server:2-shm": Look(VERMILION, "d", (0, (5, 1.5))),
    "ring-queue": Look(BLUE, "o", SOLID),
    "ring-shm": Look(PURPLE, "v", SOLID),
    "two_shot-shm": Look(GREY, "<", (0, (2, 1))),
    "ddp-gloo": Look(GREEN, "^", (0, (3, 1.2, 1, 1.2))),
}
_OTHERS = (
    Look(SKY, "X", (0, (3, 1.2, 1, 1.2))),
    Look(BLUE, "<", (0, (2, 1))),
    Look(VERMILION, ">", (0, (2, 1))),
    Look(GREEN, "p", SOLID),
    Look(PURPLE, "h", (0, (5, 1.5))),
    Look(ORANGE, "d", SOLID),
    Look(SKY, "*", SOLID),
)


def looks(strategies: Sequence[str]) -> dict[str, Look]:
    """Assign a look to every strategy; the shipped ones always keep theirs."""
    others = [name for name in sorted(strategies, key=strategy_order) if name not in _KNOWN]
    assigned = {name: _OTHERS[index % len(_OTHERS)] for index, name in enumerate(others)}
    return {name: _KNOWN.get(name) or assigned[name] for name in strategies}


@contextmanager
def paper() -> Iterator[None]:
    """Set fonts, lines and determinism for the figures drawn inside."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "dmlf",
                "svg.fonttype": "path",
                "savefig.dpi": 160,
                "font.size": 9,
                "axes.titlesize": 10,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.labelcolor": INK,
                "axes.edgecolor": GREY,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.grid.axis": "y",
                "axes.axisbelow": True,
                "grid.color": PALE,
                "grid.linewidth": 0.8,
                "text.color": INK,
                "xtick.color": INK,
                "ytick.color": INK,
                "legend.frameon": False,
                "legend.fontsize": 8.5,
                "legend.handlelength": 2.6,
                "figure.constrained_layout.h_pad": 0.06,
                "figure.constrained_layout.w_pad": 0.06,
            }
        )
        yield


def panels(columns: int, width: float, heights: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one row of panels per height; sizes in inches, legend space aside."""
    figure = Figure(figsize=(columns * width + 0.4, sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    return figure, [list(row) for row in axes]


def flow(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, filled line by line and none of them empty; sizes in inches."""
    columns = min(columns, count)
    figure, axes = panels(columns, width, [height] * -(-count // columns))
    places = [panel for row in axes for panel in row]
    for spare in places[count:]:
        spare.remove()
    return figure, places[:count]


def note(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = Figure(figsize=(7, 1.6), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=11, wrap=True)
    return figure


def legend(figure: Figure, *groups: Sequence[Artist]) -> None:
    """One legend under all panels, where it cannot cover data; every group starts a new line."""
    columns = max(1, min(int(figure.get_figwidth() // 2.1), max(len(group) for group in groups)))
    lines = [
        list(group[start : start + columns])
        for group in groups
        for start in range(0, len(group), columns)
    ]
    blank = Line2D([], [], linestyle="", label=" ")
    # matplotlib fills legends column by column, readers read them line by line.
    handles = [
        line[column] if column < len(line) else blank for column in range(columns) for line in lines
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def key(look: Look, label: str) -> Line2D:
    """The legend's entry of a strategy."""
    return Line2D(
        [], [], color=look.color, marker=look.marker, linestyle=look.dashes, markersize=6,
        label=label,
    )  # fmt: skip


def line_key(line: Mapping[str, Any], label: str) -> Line2D:
    """The legend's entry of a line without markers."""
    return Line2D([], [], label=label, **line)


def reading_keys(oversubscribed: bool, intervals: bool) -> list[Line2D]:
    """Legend entries that say how a point is read; only for what is in the figure."""
    entries = [
        Line2D([], [], color=GREY, marker="o", linestyle="", markersize=2.6, label="one run"),
        Line2D([], [], color=GREY, marker="o", linestyle="", markersize=6, label="median"),
    ]
    if intervals:
        entries.append(Line2D([], [], color=GREY, marker="|", linestyle="-", label="95 % interval"))
    if oversubscribed:
        entries.append(
            Line2D(
                [], [], color=GREY, marker="o", linestyle="", markersize=6,
                markerfacecolor="white", label="hollow: oversubscribed",
            )
        )  # fmt: skip
    return entries


def draw_point(
    axes: Axes,
    x: float,
    values: Sequence[float],
    estimate: Estimate,
    look: Look,
    *,
    hollow: bool,
    size: float,
    aside: float,
) -> None:
    """Draw the median as the strategy's marker, its interval as a bar, every run as a dot.

    The dots stand `aside` of the median to its left, where the marker does not hide them.
    """
    axes.plot(
        [x - aside] * len(values),
        values,
        linestyle="",
        marker="o",
        markersize=2.6,
        color=look.color,
        markerfacecolor="white" if hollow else look.color,
        markeredgewidth=0.6,
        alpha=0.75,
        zorder=3,
    )
    if estimate.low is not None and estimate.high is not None:
        axes.vlines(x, estimate.low, estimate.high, color=look.color, linewidth=1.8, zorder=4)
    axes.plot(
        [x],
        [estimate.median],
        linestyle="",
        marker=look.marker,
        markersize=size,
        color=look.color,
        markerfacecolor="white" if hollow else look.color,
        markeredgewidth=1.3,
        zorder=5,
    )


def world_size_axis(axes: Axes, world_sizes: Sequence[int]) -> None:
    """One evenly spaced place per world size: what matters is which, not how far apart."""
    axes.set_xticks(range(len(world_sizes)), [str(size) for size in world_sizes])
    axes.set_xlim(-0.5, len(world_sizes) - 0.5)
    axes.set_xlabel("world size (number of workers)")
