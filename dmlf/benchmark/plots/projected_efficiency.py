"""Projected efficiency over world size, weak and strong, and where contestants change places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from dmlf.benchmark.plots import style
from dmlf.benchmark.projection.document import Projection
from dmlf.benchmark.projection.rows import SCALINGS, SIMULATED, Row, contestant_label

_CLEAR = 0.01
"""Contestants less than a percentage point apart are not told apart."""

_SIZE, _SMALL = 6.5, 3.0
_TITLES = {"weak": "weak scaling: the work grows", "strong": "strong scaling: the work is shared"}


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where `winner` overtakes `loser`: between two world sizes, and what the loser waits for."""

    winner: str
    loser: str
    world_size: float
    efficiency: float
    waits_for: str


def render(projection: Projection) -> Figure:
    """One panel a scaling; a line a contestant; small points are from closed forms."""
    scalings = [s for s in SCALINGS if any(row.scaling == s for row in projection.rows)]
    if not scalings:
        return style.note("The projection has no rows.")
    names = list(dict.fromkeys(label(row) for row in projection.rows))
    looks = projected_looks(names)
    figure, axes = style.panels(len(scalings), 5.4, [3.6])
    for panel, scaling in zip(axes[0], scalings, strict=True):
        lines = {
            name: [r for r in projection.rows if r.scaling == scaling and label(r) == name]
            for name in names
        }
        panel.set_title(_TITLES[scaling])
        for index, (name, rows) in enumerate(lines.items()):
            draw_line(
                panel,
                [row.world_size for row in rows],
                [row.efficiency for row in rows],
                [row.method == SIMULATED for row in rows],
                looks[name],
                broad=any(_coincide(rows, lines[later]) for later in names[index + 1 :]),
            )
        _frame(panel)
        _annotate(panel, crossings(lines), [row for own in lines.values() for row in own])
    axes[0][0].set_ylabel("efficiency")
    style.legend(figure, [style.key(looks[name], name) for name in names], reading_keys())
    return figure


def _coincide(mine: Sequence[Row], theirs: Sequence[Row]) -> bool:
    """Whether two contestants are nowhere clearly apart."""
    pairs = zip(mine, theirs, strict=False)
    return all(abs(one.efficiency - other.efficiency) < _CLEAR for one, other in pairs)


def label(row: Row) -> str:
    """The contestant of a row."""
    return contestant_label(row.algorithm, row.num_servers)


def projected_looks(names: Sequence[str]) -> dict[str, style.Look]:
    """A look for every contestant, the ring and one server as everywhere."""
    known = {
        "ring": style.Look(style.BLUE, "o", style.SOLID),
        "parameter_server, 1 server": style.Look(style.VERMILION, "s", (0, (5, 1.5))),
    }
    # Not the colours that stand for a strategy or the peer elsewhere.
    free = [
        style.Look(style.ORANGE, "P", (0, (1, 1))),
        style.Look(style.INK, "d", (0, (5, 1, 1, 1))),
        style.Look(style.GREY, "X", (0, (3, 1))),
        style.Look(style.ORANGE, "v", style.SOLID),
        style.Look(style.INK, "^", (0, (2, 1))),
        style.Look(style.GREY, "h", style.SOLID),
    ]
    others = [name for name in names if name not in known]
    looks = {name: free[index % len(free)] for index, name in enumerate(others)}
    return {name: known.get(name) or looks[name] for name in names}


def draw_line(
    panel: Axes,
    places: Sequence[float],
    values: Sequence[float],
    simulated: Sequence[bool],
    look: style.Look,
    broad: bool = False,
) -> None:
    """A contestant's line; the points that were not simulated are small.

    broad: seen on both sides of a line that is drawn onto it later.
    """
    more = 3.0 if broad else 0.0
    panel.plot(
        places, values, color=look.color, linestyle=look.dashes, linewidth=1.2 + more, zorder=2
    )
    for place, value, full in zip(places, values, simulated, strict=True):
        panel.plot(
            [place], [value], linestyle="", marker=look.marker, color=look.color,
            markersize=more + (_SIZE if full else _SMALL), markeredgewidth=0, zorder=3,
        )  # fmt: skip


def reading_keys() -> list[Line2D]:
    """How the points are read."""
    return [
        Line2D(
            [], [], color=style.GREY, marker="o", linestyle="", markersize=size,
            markeredgewidth=0, label=label,
        )
        for size, label in ((_SIZE, "simulated"), (_SMALL, "small: closed form"))
    ]  # fmt: skip


def crossings(lines: Mapping[str, Sequence[Row]]) -> list[Crossing]:
    """For each pair the first place where one is clearly ahead before, and the other behind it.

    Between two projected world sizes efficiency is taken to be linear in the logarithm.
    """
    found = []
    names = list(lines)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            ours = {row.world_size: row for row in lines[first]}
            theirs = {row.world_size: row for row in lines[second]}
            sizes = sorted(set(ours) & set(theirs))
            gaps = [ours[size].efficiency - theirs[size].efficiency for size in sizes]
            for at in range(1, len(sizes)):
                before, after = gaps[at - 1], gaps[at]
                clear = max(map(abs, gaps[:at])) > _CLEAR and max(map(abs, gaps[at:])) > _CLEAR
                if before * after >= 0 or not clear:
                    continue
                part = before / (before - after)
                low, high = math.log(sizes[at - 1]), math.log(sizes[at])
                winner, loser = (first, second) if after > 0 else (second, first)
                behind = theirs if after > 0 else ours
                left, right = ours[sizes[at - 1]].efficiency, ours[sizes[at]].efficiency
                found.append(
                    Crossing(
                        winner,
                        loser,
                        math.exp(low + part * (high - low)),
                        left + part * (right - left),
                        behind[sizes[at]].bottleneck,
                    )
                )
                break
    return found


def _waits(rows: Sequence[Row]) -> list[str]:
    """What each contestant waits for, at one world size of the middle."""
    sizes = sorted({row.world_size for row in rows})
    at = sizes[len(sizes) // 2]
    return [
        f"at {at:,} ranks {label(row)} waits for {row.bottleneck}"
        for row in rows
        if row.world_size == at
    ]


def _annotate(panel: Axes, found: Sequence[Crossing], rows: Sequence[Row]) -> None:
    lines = []
    for index, crossing in enumerate(sorted(found, key=lambda c: c.world_size), 1):
        panel.plot(
            [crossing.world_size], [crossing.efficiency], marker="o", markersize=12,
            markerfacecolor="none", markeredgecolor=style.INK, linestyle="", zorder=4,
        )  # fmt: skip
        panel.annotate(
            str(index), (crossing.world_size, crossing.efficiency), xytext=(8, 6),
            textcoords="offset points", fontsize=8, color=style.INK,
        )  # fmt: skip
        lines.append(
            f"{index}: at {crossing.world_size:,.0f} ranks {crossing.winner} overtakes\n"
            f"    {crossing.loser}, which waits for {crossing.waits_for}"
        )
    if not lines:
        lines = ["no two contestants change places", *_waits(rows)]
    panel.text(
        0.98, 0.97, "\n".join(lines), transform=panel.transAxes, ha="right", va="top",
        fontsize=7, color=style.INK, zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )  # fmt: skip


def _frame(panel: Axes) -> None:
    panel.set_xscale("log")
    panel.set_xlabel("world size (number of workers)")
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.axhline(1.0, color=style.GREY, linestyle="--", linewidth=1.1, zorder=1)
    panel.set_ylim(0, 1.45)
    panel.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=" %"))
