"""The report's figures, by name; each is drawn by one function of the file of its name."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmlf.benchmark.cohorts import cohorts
from dmlf.benchmark.collective.load import Loaded, load
from dmlf.benchmark.files import write_bytes
from dmlf.benchmark.table import Table, read_table
from dmlf.errors import ConfigError, DependencyMissing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dmlf.benchmark.projection import Projection

# In the report's order, with the titles that it uses and that the SVG files carry.
FIGURES: Mapping[str, str] = {
    "throughput": "Throughput by world size",
    "efficiency": "Scaling efficiency by world size",
    "convergence": "Convergence against the serial baseline",
    "communication": "Where the time of a step goes",
    "exactness": "The price of exact reduction",
}
COLLECTIVE = "collective"
COLLECTIVE_TITLE = "All-reduce alone, by size"
"""The one figure that is drawn from a collective record in place of the table."""

# Drawn from the file of a projection, not from the table of runs.
PROJECTION_FIGURES: Mapping[str, str] = {
    "projected_efficiency": "Projected efficiency by world size",
    "projected_sensitivity": "Projected efficiency by straggling and bucket size",
}


def draw(name: str, table_path: str | Path, output_path: str | Path) -> None:
    """Draw one figure from runs.csv (and epochs.csv beside it).

    Writes `output_path` (.svg) and the same figure as .png beside it; same table, same bytes.
    Raises ConfigError for an unknown name or another suffix, MetricsError for a bad table, and
    DependencyMissing without matplotlib.
    """
    if name not in FIGURES:
        raise ConfigError("figure", name, f"one of {', '.join([*FIGURES, COLLECTIVE])}")
    output = _svg(output_path)
    table = read_table(table_path)
    style = _load("style")
    render: Callable[[Table], Figure] = _load(name).render
    with style.paper():
        figure = render(table) if cohorts(table.runs) else style.note("The table has no runs.")
        _save(figure, FIGURES[name], output)


def draw_projection(name: str, projection: Projection, output_path: str | Path) -> None:
    """Draw one figure of PROJECTION_FIGURES, as `draw` does. Raises ConfigError, OSError."""
    if name not in PROJECTION_FIGURES:
        raise ConfigError("figure", name, f"one of {', '.join(PROJECTION_FIGURES)}")
    output = _svg(output_path)
    style = _load("style")
    render: Callable[[Projection], Figure] = _load(name).render
    with style.paper():
        _save(render(projection), PROJECTION_FIGURES[name], output)


def draw_collective(record_path: str | Path, output_path: str | Path) -> None:
    """Draw the collectives' figure from their record; it says so where there is no valid one.

    Writes and raises as `draw` does.
    """
    output = _svg(output_path)
    loaded = load(record_path)
    style = _load("style")
    render: Callable[[Loaded], Figure] = _load(COLLECTIVE).render
    with style.paper():
        _save(render(loaded), COLLECTIVE_TITLE, output)


def _svg(output_path: str | Path) -> Path:
    output = Path(output_path)
    if output.suffix != ".svg":
        raise ConfigError("output", str(output_path), "a path that ends in .svg")
    return output


def _save(figure: Figure, title: str, output: Path) -> None:
    for suffix, metadata in (
        (".png", {"Software": None, "Title": title}),
        (".svg", {"Date": None, "Creator": None, "Title": title}),
    ):
        stream = io.BytesIO()
        figure.savefig(stream, format=suffix[1:], metadata=metadata)
        write_bytes(output.with_suffix(suffix), stream.getvalue())


def _load(module: str) -> Any:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        install = 'pip install "dmlf[workflow]"'
        raise DependencyMissing("matplotlib", str(error), install) from error
    return import_module(f"{__name__}.{module}")
