"""Measured all-reduces, what the cost model makes of them, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dmlf.benchmark.collective.load import Loaded
from dmlf.benchmark.collective.summary import size_text
from dmlf.benchmark.cost_model.judged import JudgedModel, judge_models
from dmlf.benchmark.cost_model.samples import CollectiveSample
from dmlf.benchmark.plots import style

_CURVE_POINTS = 120
_AIM_PERCENT = 15


def render(loaded: Loaded) -> Figure:
    """A column per transport: times with the model's curve above, its errors in percent below."""
    if loaded.record is None:
        return style.note(f"No cost model to show: {loaded.problem}.")
    models = judge_models(loaded.record)
    if not models:
        return style.note("No transport was measured at enough sizes where ranks fit the cores.")
    strategies = sorted({_strategy(s) for m in models for s in (*m.seen, *m.held_out)})
    looks = style.looks(strategies)
    figure, axes = style.panels(len(models), 3.9, [2.9, 1.5])
    for column, model in enumerate(models):
        _draw_times(axes[0][column], model, looks)
        _draw_errors(axes[1][column], model, looks)
    axes[0][0].set_ylabel("time of an all-reduce (ms)")
    axes[1][0].set_ylabel("predicted / measured - 1")
    style.legend(figure, [style.key(looks[name], name) for name in strategies], _reading_keys())
    return figure


def _strategy(sample: CollectiveSample) -> str:
    return f"{sample.algorithm}-{sample.transport}"


def _draw_times(axes: Axes, model: JudgedModel, looks: dict[str, style.Look]) -> None:
    samples = (*model.seen, *model.held_out)
    axes.set_title(model.transport)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    for algorithm, world_size in sorted({(s.algorithm, s.world_size) for s in samples}):
        own = [s for s in samples if (s.algorithm, s.world_size) == (algorithm, world_size)]
        look = looks[_strategy(own[0])]
        low, high = (extreme(s.num_bytes for s in own) for extreme in (min, max))
        sizes = np.geomspace(low, high, _CURVE_POINTS)
        points = [replace(own[0], num_bytes=int(size)) for size in sizes]
        curve = [1e3 * model.calibration.predict_s(point) for point in points]
        axes.plot(sizes, curve, color=look.color, linewidth=1.2, zorder=2)
        for sample in own:
            _mark(axes, sample.num_bytes, 1e3 * sample.median_s, look, sample in model.held_out)
    _frame(axes, samples)


def _draw_errors(axes: Axes, model: JudgedModel, looks: dict[str, style.Look]) -> None:
    samples = (*model.seen, *model.held_out)
    axes.set_xscale("log", base=2)
    axes.axhline(0.0, color=style.INK, linewidth=0.9, zorder=1)
    axes.axhspan(-_AIM_PERCENT, _AIM_PERCENT, color=style.PALE, zorder=0.5)
    for sample in samples:
        residual = 100 * (model.calibration.predict_s(sample) / sample.median_s - 1)
        look = looks[_strategy(sample)]
        _mark(axes, sample.num_bytes, residual, look, sample in model.held_out)
    widest = max(30.0, *(1.1 * abs(end) for end in axes.get_ylim()))
    axes.set_ylim(-widest, widest)
    axes.yaxis.set_major_formatter("{x:+.0f} %")
    axes.set_xlabel("size of the vector")
    _frame(axes, samples)


def _frame(axes: Axes, samples: Sequence[CollectiveSample]) -> None:
    sizes = sorted({sample.num_bytes for sample in samples})
    axes.set_xticks(sizes, [size_text(size) for size in sizes])
    axes.minorticks_off()
    axes.tick_params(axis="x", labelrotation=45)


def _mark(axes: Axes, x: float, y: float, look: style.Look, held_out: bool) -> None:
    axes.plot(
        [x],
        [y],
        linestyle="",
        marker=look.marker,
        markersize=7.0 if held_out else 4.0,
        color=look.color,
        markeredgecolor=style.INK if held_out else look.color,
        markeredgewidth=1.3,
        zorder=3,
    )


def _reading_keys() -> list[Line2D]:
    return [
        Line2D([], [], color=style.INK, linewidth=1.2, label="model"),
        _point_key("fitted", style.GREY, 4.0),
        _point_key("dark edge: held out and predicted", style.INK, 7.0),
    ]


def _point_key(label: str, edge: str, size: float) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="",
        marker="o",
        markersize=size,
        color=style.GREY,
        markeredgecolor=edge,
        markeredgewidth=1.3,
        label=label,
    )
