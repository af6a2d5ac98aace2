"""Test accuracy by epoch, and by training time at each world size, every strategy over serial.

Where a task has no accuracy, its loss is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from dmlf.benchmark.checks import PASSED
from dmlf.benchmark.cohorts import cohorts, strategy_order
from dmlf.benchmark.plots import palette, style
from dmlf.benchmark.table import STRONG, EpochRow, Table

_COLUMNS = 4
# A broad pale line: what lies on it stays readable.
_SERIAL = palette.FAINT


@dataclass(frozen=True, slots=True)
class _Panel:
    """Rows of one task and reduction, over `across`; of one world size if given, beside serial."""

    title: str
    epochs: Sequence[EpochRow]
    across: str
    up: str

    @property
    def runs(self) -> list[list[EpochRow]]:
        """The rows of every run."""
        paths = dict.fromkeys(row.path for row in self.epochs)
        return [[row for row in self.epochs if row.path == path] for path in paths]


def render(table: Table) -> Figure:
    """Draw, per task and reduction, a panel by epoch and one by time for each world size."""
    panels = [panel for part in _parts(table) for panel in _panels(*part)]
    if not panels:
        return style.note("No run with a passed correctness check: no convergence to show.")
    names = sorted({row.strategy for panel in panels for row in panel.epochs}, key=strategy_order)
    looks = style.looks(names)
    figure, axes = style.flow(len(panels), _COLUMNS, 3.2, 2.6)
    for place, panel in zip(axes, panels, strict=True):
        _draw(place, panel, looks)
    keys = [Line2D([], [], color=_SERIAL, linewidth=4, label="serial baseline")]
    keys += [
        Line2D([], [], color=looks[n].color, linestyle=looks[n].dashes, label=n)
        for n in names
        if n != "serial"
    ]
    style.legend(figure, keys)
    return figure


def _parts(table: Table) -> list[tuple[str, list[EpochRow]]]:
    """A title and the rows of each task and reduction that may be compared with serial."""
    parts = []
    for cohort in cohorts(table.runs):
        if cohort.experiment != STRONG:
            continue  # another global batch is another training
        epochs = [
            row for row in table.epochs
            if row.cohort == cohort.key and row.task == cohort.task and row.check == PASSED
        ]  # fmt: skip
        for reduction in sorted({row.reduction for row in epochs}, key=lambda r: r != "float32"):
            own = [row for row in epochs if row.reduction == reduction]
            parts.append((f"{cohort.label}, {reduction}", own))
    return parts


def _panels(title: str, epochs: Sequence[EpochRow]) -> list[_Panel]:
    up = "test_loss" if all(row.test_accuracy is None for row in epochs) else "test_accuracy"
    found = [_Panel(f"{title}\nby epoch, all runs", epochs, "epoch", up)]
    timed = [row for row in epochs if row.elapsed_s is not None]
    sizes = sorted({row.world_size for row in timed if row.strategy != "serial"})
    for size in sizes or ([1] if timed else []):
        own = [row for row in timed if row.strategy == "serial" or row.world_size == size]
        name = f"{title}\nby time, {size} worker{'s' * (size != 1)}"
        found.append(_Panel(name, _typical(own), "elapsed_s", up))
    return found


def _typical(epochs: Sequence[EpochRow]) -> list[EpochRow]:
    """Of each strategy only the run whose training took the median time; of serial all."""
    took: dict[str, dict[str, float]] = {}
    for row in epochs:
        own = took.setdefault(row.strategy, {})
        own[row.path] = max(own.get(row.path, 0.0), row.elapsed_s or 0.0)
    chosen = {
        strategy: next(path for path, time_s in own.items() if time_s == median_low(own.values()))
        for strategy, own in took.items()
    }
    return [row for row in epochs if row.strategy == "serial" or row.path == chosen[row.strategy]]


def _draw(axes: Axes, panel: _Panel, looks: Mapping[str, style.Look]) -> None:
    axes.set_title(panel.title, loc="left", fontsize=9)
    axes.set_xlabel({"epoch": "epoch", "elapsed_s": "training time (s)"}[panel.across])
    for run in panel.runs:
        line = _line(run, panel)
        if run[0].strategy == "serial":
            axes.plot(*line, color=_SERIAL, linewidth=4, zorder=2)
        else:
            look = looks[run[0].strategy]
            axes.plot(*line, color=look.color, linestyle=look.dashes, linewidth=1.2, zorder=3)
    axes.set_xlim(0, 1.02 * max(getattr(row, panel.across) for row in panel.epochs))
    if panel.across == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.up == "test_accuracy":
        axes.set_ylabel("test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, symbol=" %", decimals=0))
        return
    axes.set_ylabel("test loss")
    if all(row.test_loss > 0 for row in panel.epochs):
        axes.set_ylabel("test loss (log scale)")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _line(run: Sequence[EpochRow], panel: _Panel) -> tuple[list[float], list[float]]:
    points = [(getattr(row, panel.across), getattr(row, panel.up)) for row in run]
    known = [(float(x), float(y)) for x, y in points if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]
