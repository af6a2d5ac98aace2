"""Bus bandwidth of all-reduce over size: a panel per world size, a line per contestant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmlf.benchmark.collective.config import GLOO, LIMIT, OPENMPI, PEERS
from dmlf.benchmark.collective.load import Collectives, Loaded
from dmlf.benchmark.collective.summary import Point, contestants, points, size_text
from dmlf.benchmark.plots import style

_LIMIT_LINE: Mapping[str, Any] = {"color": style.INK, "linestyle": "--", "linewidth": 1.3}
# Peers share their dashes and have a look of their own each; strategies have solid lines.
_PEER_DASHES: style.Dashes = (0, (3, 1.2, 1, 1.2))
_PEERS = {
    GLOO: style.Look(style.GREEN, "^", _PEER_DASHES),
    OPENMPI: style.Look(style.GREY, "s", _PEER_DASHES),
}
# Contestants of one size stand beside each other, this factor apart on the logarithmic axis.
_ASIDE = 1.09


def render(loaded: Loaded) -> Figure:
    """Draw every world size of a record; without one, say why there is nothing to draw."""
    record = loaded.record
    if record is None:
        return style.note(f"No all-reduce to show: {loaded.problem}.")
    panels = {size: points(record, size) for size in record.config.world_sizes}
    names = contestants([point for found in panels.values() for point in found])
    looks = _looks(names)
    figure, axes = style.panels(len(panels), 5.0, [3.9])
    top = max(p.busbw.high or p.busbw.median for found in panels.values() for p in found)
    low = min(p.busbw.low or p.busbw.median for found in panels.values() for p in found)
    for axis, (world_size, found) in zip(axes[0], panels.items(), strict=True):
        _draw(axis, record, world_size, found, looks)
        axis.set_ylim(low / 1e9 / 1.6, top / 1e9 * 1.6)
    axes[0][0].set_ylabel("bus bandwidth (GB/s)")
    style.legend(figure, _strategy_keys(names, looks), _reading_keys(panels, record))
    return figure


def _looks(names: Sequence[str]) -> dict[str, style.Look]:
    ours = style.looks([name for name in names if name not in (*PEERS, LIMIT)])
    solid = {n: style.Look(look.color, look.marker, style.SOLID) for n, look in ours.items()}
    return solid | _PEERS


def _draw(
    axes: Axes,
    record: Collectives,
    world_size: int,
    found: Sequence[Point],
    looks: Mapping[str, style.Look],
) -> None:
    crowded = f" (oversubscribed: {record.cores} cores)" if world_size > record.cores else ""
    axes.set_title(f"{world_size} ranks{crowded}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(record.config.sizes, [size_text(size) for size in record.config.sizes])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelrotation=30 if len(record.config.sizes) > 6 else 0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("size of the vector on each rank")
    ours = [name for name in contestants(found) if name != LIMIT]
    for name in contestants(found):
        own = [point for point in found if point.cell.contestant == name]
        medians = [point.busbw.median / 1e9 for point in own]
        if name == LIMIT:
            sizes = [float(point.cell.size_bytes) for point in own]
            axes.plot(sizes, medians, **_LIMIT_LINE, zorder=1)
            continue
        factor = _ASIDE ** (ours.index(name) - (len(ours) - 1) / 2)
        places = [point.cell.size_bytes * factor for point in own]
        look = looks[name]
        axes.plot(places, medians, color=look.color, linestyle=look.dashes, linewidth=1.3, zorder=2)
        for place, point in zip(places, own, strict=True):
            _draw_point(axes, place, point, look)


def _draw_point(axes: Axes, place: float, point: Point, look: style.Look) -> None:
    busbw = point.busbw
    if busbw.low is not None and busbw.high is not None:
        axes.vlines(
            place, busbw.low / 1e9, busbw.high / 1e9, color=look.color, linewidth=1.6, zorder=3
        )
    axes.plot(
        [place],
        [busbw.median / 1e9],
        linestyle="",
        marker=look.marker,
        markersize=5.0,
        color=look.color,
        markerfacecolor="white" if point.oversubscribed else look.color,
        markeredgewidth=1.2,
        zorder=4,
    )


def _strategy_keys(names: Sequence[str], looks: Mapping[str, style.Look]) -> list[Line2D]:
    return [style.key(looks[name], name) for name in names if name != LIMIT]


def _reading_keys(panels: Mapping[int, Sequence[Point]], record: Collectives) -> list[Line2D]:
    crowded = any(point.oversubscribed for found in panels.values() for point in found)
    # No dots here: rounds are not drawn one by one.
    reading = style.reading_keys(crowded, record.config.rounds > 1)[1:]
    return [style.line_key(_LIMIT_LINE, "limit: add and copy alone"), *reading]
