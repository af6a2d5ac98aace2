"""The report's figures, by name; each is drawn by one function of the file of its name."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmlf.benchmark.cohorts import cohorts
from dmlf.benchmark.collective.load import Loaded, load
from dmlf.benchmark.faults.load import Faults
from dmlf.benchmark.faults.load import load as load_faults
from dmlf.benchmark.files import write_bytes, write_text
from dmlf.benchmark.plots import step
from dmlf.benchmark.recorded_step import read_step
from dmlf.benchmark.table import Table, read_table
from dmlf.errors import ConfigError, DependencyMissing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# In the report's order, with the titles that it uses and that the SVG files carry.
FIGURES: Mapping[str, str] = {
    "throughput": "Throughput by world size",
    "efficiency": "Scaling efficiency by world size",
    "convergence": "Convergence against the serial baseline",
    "target": "Epochs and time to the target accuracy",
    "communication": "Where the time of a step goes",
    "exactness": "The price of exact reduction",
}
COLLECTIVE = "collective"
COLLECTIVE_TITLE = "All-reduce alone, by size"
"""Drawn from a collective record in place of the table."""
COST_MODEL = "cost_model"
COST_MODEL_TITLE = "What a message and a byte cost"
"""Drawn from a collective record too: the model that is fitted to it, and its errors."""
RECORD_FIGURES: Mapping[str, str] = {COLLECTIVE: COLLECTIVE_TITLE, COST_MODEL: COST_MODEL_TITLE}
FAULTS = "faults"
FAULTS_TITLE = "How soon faults are noticed and mended"
"""Drawn from a campaign of injected faults."""
STEP = "step"
"""The figure that is drawn from a timeline: one recorded step, for readers who learn."""


def check_name(name: str, among: Collection[str] | None = None) -> None:
    """Raise ConfigError unless `name` is one `among` those, or any figure's."""
    known = (*FIGURES, *RECORD_FIGURES, FAULTS, STEP)
    if name not in (among or known):
        raise ConfigError("figure", name, f"one of {', '.join(known)}")


def draw(name: str, table_path: str | Path, output_path: str | Path) -> None:
    """Draw one figure from runs.csv (and epochs.csv beside it).

    Writes `output_path` (.svg) and the same figure as .png beside it; same table, same bytes.
    Raises ConfigError for an unknown name or another suffix, MetricsError for a bad table, and
    DependencyMissing without matplotlib.
    """
    check_name(name, FIGURES)
    output = svg_path(output_path)
    table = read_table(table_path)
    style = load_part("style")
    render: Callable[[Table], Figure] = load_part(name).render
    with style.paper():
        figure = render(table) if cohorts(table.runs) else style.note("The table has no runs.")
        save_figure(figure, FIGURES[name], output)


def draw_record(name: str, record_path: str | Path, output_path: str | Path) -> None:
    """Draw a figure of a collective record; it says so where there is no valid one.

    Writes and raises as `draw` does.
    """
    output = svg_path(output_path)
    loaded = load(record_path)
    style = load_part("style")
    render: Callable[[Loaded], Figure] = load_part(name).render
    with style.paper():
        save_figure(render(loaded), RECORD_FIGURES[name], output)


def draw_faults(campaign_path: str | Path, output_path: str | Path) -> None:
    """Draw a campaign of injected faults; the figure says so where there is no valid one.

    Writes and raises as `draw` does.
    """
    output = svg_path(output_path)
    faults = load_faults(campaign_path, None)
    style = load_part("style")
    render: Callable[[Faults], Figure] = load_part(FAULTS).render
    with style.paper():
        save_figure(render(faults), FAULTS_TITLE, output)


def draw_step(timeline_path: str | Path, output_path: str | Path) -> None:
    """Draw one recorded step of a timeline file as an SVG of panels; needs no matplotlib.

    Raises ConfigError for another suffix than .svg, MetricsError for a bad timeline, and OSError.
    """
    output = svg_path(output_path)
    write_text(output, step.draw(read_step(timeline_path)))


def svg_path(output_path: str | Path) -> Path:
    """The path of a figure. Raises ConfigError on another suffix than .svg."""
    output = Path(output_path)
    if output.suffix != ".svg":
        raise ConfigError("output", str(output_path), "a path that ends in .svg")
    return output


def save_figure(figure: Figure, title: str, output: Path) -> None:
    """Write a figure as SVG, and as PNG beside it."""
    for suffix, metadata in (
        (".png", {"Software": None, "Title": title}),
        (".svg", {"Date": None, "Creator": None, "Title": title}),
    ):
        stream = io.BytesIO()
        figure.savefig(stream, format=suffix[1:], metadata=metadata)
        write_bytes(output.with_suffix(suffix), stream.getvalue())


def load_part(module: str) -> Any:
    """A file of this folder, which needs matplotlib. Raises DependencyMissing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        install = 'pip install -e ".[workflow]"'
        raise DependencyMissing("matplotlib", str(error), install) from error
    return import_module(f"{__name__}.{module}")
