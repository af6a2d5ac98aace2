"""A panel of values over world size, one line per strategy: the form of three of the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmlf.benchmark.cohorts import strategy_order
from dmlf.benchmark.plots import style
from dmlf.benchmark.statistics import Estimate

# The part of a world size's place that its contestants spread over.
_SPREAD = 0.5
# Up to so many contestants, markers have room at full size.
_FEW = 5
# Inches between two contestants that keep their markers and dots apart, and the widest panel.
_SPACING_INCHES = 0.16
_WIDEST_INCHES = 10.0


@dataclass(frozen=True, slots=True)
class Mark:
    """One point: a value per run, and their median with its interval."""

    strategy: str
    world_size: int
    values: Sequence[float]
    estimate: Estimate
    oversubscribed: bool

    @property
    def highest(self) -> float:
        """The top of what is drawn of it."""
        return max([*self.values, self.estimate.high or self.estimate.median])


def panel_width(strategies: int, world_sizes: int, least: float) -> float:
    """Inches that a panel needs for so many contestants at so many world sizes."""
    place = _SPACING_INCHES * max(strategies - 1, 3) / _SPREAD
    return min(_WIDEST_INCHES, max(least, place * world_sizes + 0.7))


def draw_series(
    axes: Axes,
    marks: Sequence[Mark],
    world_sizes: Sequence[int],
    looks: Mapping[str, style.Look],
) -> None:
    """Draw marks on a categorical world-size axis, those of one size beside each other."""
    style.world_size_axis(axes, world_sizes)
    names = sorted({mark.strategy for mark in marks}, key=strategy_order)
    spacing = _SPREAD / max(len(names) - 1, 3)
    size = 6.0 if len(names) <= _FEW else 4.4
    # Around the place of a size stand only those that are there.
    present = {w: [n for n in names if _mark(marks, n, w)] for w in world_sizes}
    for name in names:
        look = looks[name]
        own = {mark.world_size: mark for mark in marks if mark.strategy == name}
        places = {
            w: world_sizes.index(w) + spacing * (present[w].index(name) - (len(present[w]) - 1) / 2)
            for w in own
        }
        # A world size without runs is a gap: a line across it would suggest a value.
        axes.plot(
            [places.get(w, math.nan) for w in world_sizes],
            [own[w].estimate.median if w in own else math.nan for w in world_sizes],
            color=look.color,
            linestyle=look.dashes,
            linewidth=1.2,
            zorder=2,
        )
        for world_size, mark in own.items():
            style.draw_point(
                axes,
                places[world_size],
                mark.values,
                mark.estimate,
                look,
                hollow=mark.oversubscribed,
                size=size,
                aside=0.4 * spacing,
            )


def _mark(marks: Sequence[Mark], strategy: str, world_size: int) -> bool:
    return any((m.strategy, m.world_size) == (strategy, world_size) for m in marks)


def add_legend(
    figure: Figure,
    marks: Sequence[Mark],
    looks: Mapping[str, style.Look],
    extra: Sequence[Artist] = (),
) -> None:
    """Name the strategies of some marks, then say how marks and `extra` lines are read."""
    names = sorted({mark.strategy for mark in marks}, key=strategy_order)
    reading = style.reading_keys(
        any(mark.oversubscribed for mark in marks), any(len(mark.values) > 1 for mark in marks)
    )
    style.legend(figure, [style.key(looks[name], name) for name in names], [*reading, *extra])
