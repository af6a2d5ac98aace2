"""How the projected efficiency moves with straggling, and with the size of buckets."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from dmlf.benchmark.plots import style
from dmlf.benchmark.plots.projected_efficiency import draw_line, projected_looks, reading_keys
from dmlf.benchmark.projection.document import Projection
from dmlf.benchmark.projection.rows import SIMULATED, contestant_label

_PANELS = {
    "straggling_sigma": ("computation that varies", "sigma of the lognormal factor"),
    "bucket_cap_bytes": ("buckets of another size", "largest bucket"),
}


def render(projection: Projection) -> Figure:
    """One panel for straggling and one for bucket size, at one world size."""
    points = projection.sensitivities
    if not points:
        return style.note("The projection has no sensitivities.")
    names = list(dict.fromkeys(contestant_label(p.algorithm, p.num_servers) for p in points))
    looks = projected_looks(names)
    figure, axes = style.panels(len(_PANELS), 4.6, [3.2])
    for panel, (quantity, (title, text)) in zip(axes[0], _PANELS.items(), strict=True):
        own = [point for point in points if point.quantity == quantity]
        panel.set_title(f"{title}, {points[0].world_size:,} ranks")
        for name in names:
            line = [p for p in own if contestant_label(p.algorithm, p.num_servers) == name]
            draw_line(
                panel,
                [point.value for point in line],
                [point.efficiency for point in line],
                [point.method == SIMULATED for point in line],
                looks[name],
            )
        _frame(panel, text)
    axes[0][1].set_xscale("log", base=4)
    axes[0][1].xaxis.set_major_formatter(FuncFormatter(_size))
    axes[0][0].set_ylabel("efficiency, weak scaling")
    style.legend(figure, [style.key(looks[name], name) for name in names], reading_keys())
    return figure


def _size(num_bytes: float, _place: int | None) -> str:
    return f"{num_bytes / 1024:g} KiB" if num_bytes < 1 << 20 else f"{num_bytes / (1 << 20):g} MiB"


def _frame(panel: Axes, text: str) -> None:
    panel.set_xlabel(text)
    panel.axhline(1.0, color=style.GREY, linestyle="--", linewidth=1.1, zorder=1)
    panel.set_ylim(0, 1.08)
    panel.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=" %"))
