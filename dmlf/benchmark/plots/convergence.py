"""Test accuracy and loss by epoch and by training time, each strategy against serial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from dmlf.benchmark.checks import PASSED
from dmlf.benchmark.cohorts import Cohort, cohorts, strategy_order
from dmlf.benchmark.plots import palette, style
from dmlf.benchmark.table import STRONG, EpochRow, Table

_VIEWS = (
    ("epoch", "test_accuracy"),
    ("elapsed_s", "test_accuracy"),
    ("epoch", "test_loss"),
    ("elapsed_s", "test_loss"),
)
_LABELS = {
    "epoch": "epoch",
    "elapsed_s": "training time (s)",
    "test_accuracy": "test accuracy",
    "test_loss": "test loss (log scale)",
}
# A broad pale line: what lies on it stays readable.
_SERIAL = palette.FAINT
# World sizes of one strategy: from light to dark, and with longer dashes for print.
_DASHES: tuple[style.Dashes, ...] = (
    (0, (1, 1)),
    (0, (3, 1)),
    (0, (6, 1.5)),
    (0, (6, 1, 1, 1)),
    (0, (6, 1, 1, 1, 1, 1)),
    style.SOLID,
)


def render(table: Table) -> Figure:
    """Draw a row per strategy and reduction: all its runs, over serial's broad grey lines."""
    rows = []
    for cohort in cohorts(table.runs):
        if cohort.experiment != STRONG:
            continue  # another global batch is another training
        epochs = [
            row for row in table.epochs
            if row.cohort == cohort.key and row.task == cohort.task and row.check == PASSED
        ]  # fmt: skip
        names = {(row.reduction, row.strategy) for row in epochs}
        for reduction, strategy in sorted(
            names, key=lambda n: (n[0] != "float32", strategy_order(n[1]))
        ):
            if strategy != "serial" or all(name == "serial" for _, name in names):
                rows.append((cohort, reduction, strategy, epochs))
    if not rows:
        return style.note("No run with a passed correctness check: no convergence to show.")
    looks = style.looks(sorted({strategy for _, _, strategy, _ in rows}, key=strategy_order))
    sizes = sorted({row.world_size for _, _, _, epochs in rows for row in epochs})
    figure, axes = style.panels(len(_VIEWS), 3.0, [2.0] * len(rows))
    for index, (cohort, reduction, strategy, epochs) in enumerate(rows):
        for panel, view in zip(axes[index], _VIEWS, strict=True):
            _draw(panel, view, epochs, (strategy, reduction), looks[strategy], sizes)
        axes[index][0].set_title(_title(cohort, reduction, strategy))
    keys = [Line2D([], [], color=_SERIAL, linewidth=4, label="serial baseline")]
    keys += [
        Line2D(
            [], [], color=style.GREY, linestyle=_DASHES[i % len(_DASHES)], label=f"world size {s}"
        )
        for i, s in enumerate(sizes)
    ]
    style.legend(figure, keys)
    return figure


def _title(cohort: Cohort, reduction: str, strategy: str) -> str:
    return f"{cohort.label}, {strategy}, {reduction}"


def _draw(
    axes: Axes,
    view: tuple[str, str],
    epochs: Sequence[EpochRow],
    shown: tuple[str, str],
    look: style.Look,
    sizes: Sequence[int],
) -> None:
    across, up = view
    axes.set_xlabel(_LABELS[across])
    axes.set_ylabel(_LABELS[up])
    if all(getattr(row, up) is None for row in epochs):
        axes.text(
            0.5, 0.5, "no accuracy in this task", transform=axes.transAxes, ha="center",
            va="center", color=style.GREY,
        )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        return
    strategy, reduction = shown
    serial = [r for r in epochs if r.strategy == "serial" and r.reduction == reduction]
    for run in _runs(serial):
        axes.plot(*_line(run, across, up), color=_SERIAL, linewidth=4, zorder=2)
    if strategy != "serial":
        mine = [r for r in epochs if r.strategy == strategy and r.reduction == reduction]
        for run in _runs(mine):
            axes.plot(
                *_line(run, across, up),
                color=_shade(look.color, sizes.index(run[0].world_size), len(sizes)),
                linestyle=_DASHES[sizes.index(run[0].world_size) % len(_DASHES)],
                linewidth=1.1,
                alpha=0.85,
                zorder=3,
            )
    axes.set_xlim(0, 1.02 * max(getattr(row, across) or 0 for row in epochs))
    if across == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if up == "test_accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=" %", decimals=0))
    elif all(row.test_loss > 0 for row in epochs):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _shade(color: str, index: int, count: int) -> tuple[float, float, float]:
    """The colour, lighter for smaller world sizes."""
    white = 0.0 if count < 2 else 0.35 * (1 - index / (count - 1))
    red, green, blue = to_rgb(color)
    return tuple(part + (1 - part) * white for part in (red, green, blue))  # type: ignore[return-value]


def _runs(rows: Sequence[EpochRow]) -> list[list[EpochRow]]:
    paths = dict.fromkeys(row.path for row in rows)
    return [[row for row in rows if row.path == path] for path in paths]


def _line(run: Sequence[EpochRow], across: str, up: str) -> tuple[list[float], list[float]]:
    points = [(getattr(row, across), getattr(row, up)) for row in run]
    known = [(x, y) for x, y in points if x is not None and y is not None]
    return [float(x) for x, _ in known], [float(y) if y is not None else np.nan for _, y in known]
