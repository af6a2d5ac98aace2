"""How soon faults are noticed, and how soon the run trains again: a line per kind of fault."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmlf.benchmark.faults.load import Faults
from dmlf.benchmark.faults.summary import Kind, kinds
from dmlf.benchmark.plots import style

_ENOUGH_FOR_A_MEDIAN = 3
_SHORTEST_S = 1e-4  # what was quicker is drawn there
_LOOK = style.Look(style.BLUE, "o", style.SOLID)
_SILENCE: Mapping[str, Any] = {"color": style.INK, "linestyle": "--", "linewidth": 1.0}


def render(faults: Faults) -> Figure:
    """Draw every run that recovered; without a campaign, say why there is nothing to draw."""
    campaign = faults.campaign
    if campaign is None:
        return style.note(f"No injected faults to show: {faults.campaign_problem}.")
    shown = [kind for kind in kinds(campaign) if kind.recovery_s]
    if not shown:
        return style.note("No run of the campaign had to recover: nothing to show.")
    timeouts = {run["config"]["timeout_s"] for run in campaign["runs"]}
    figure, axes = style.panels(2, 4.4, [0.5 + 0.34 * len(shown)])
    noticed, recovered = axes[0]
    _draw(noticed, "Noticed after", shown, [kind.detection_s for kind in shown])
    _draw(recovered, "Trained again after", shown, [kind.recovery_s for kind in shown])
    noticed.set_yticks(range(len(shown)), [kind.name for kind in shown])
    recovered.set_yticks(range(len(shown)), [""] * len(shown))
    for timeout_s in timeouts:
        noticed.axvline(timeout_s, **_SILENCE, zorder=1)
    dot = Line2D(
        [], [], color=_LOOK.color, marker="o", linestyle="", markersize=4, alpha=0.5,
        label="one recovery",
    )  # fmt: skip
    bar = Line2D(
        [], [], color=_LOOK.color, marker="|", linestyle="", markersize=12, markeredgewidth=2,
        label=f"median, of {_ENOUGH_FOR_A_MEDIAN} or more",
    )  # fmt: skip
    has_medians = any(len(kind.recovery_s) >= _ENOUGH_FOR_A_MEDIAN for kind in shown)
    silence = style.line_key(_SILENCE, "timeout, where only silence tells")
    style.legend(figure, [dot, bar, silence] if has_medians else [dot, silence])
    return figure


def _draw(axes: Axes, title: str, shown: Sequence[Kind], times: Sequence[Sequence[float]]) -> None:
    axes.set_title(title)
    axes.set_xscale("log")
    axes.set_xlabel("seconds")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x")
    axes.grid(axis="y", visible=False)
    axes.set_xlim(_SHORTEST_S / 1.6, 1.6 * max(4.0, *(max(own) for own in times if own)))
    axes.set_ylim(len(shown) - 0.5, -0.5)
    for row, own in enumerate(times):
        values = [max(_SHORTEST_S, value) for value in own]
        axes.plot(
            values, [row] * len(values), linestyle="", marker="o", markersize=5,
            color=_LOOK.color, alpha=0.5, markeredgewidth=0, zorder=3,
        )  # fmt: skip
        if len(values) >= _ENOUGH_FOR_A_MEDIAN:
            axes.plot(
                [statistics.median(values)], [row], linestyle="", marker="|", markersize=14,
                markeredgewidth=2.2, color=_LOOK.color, zorder=4,
            )  # fmt: skip
