"""The figures of a projection, by name; drawn from its file, not from the table of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dmlf.benchmark.plots import load_part, save_figure, svg_path
from dmlf.benchmark.projection import Projection
from dmlf.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROJECTION_FIGURES: Mapping[str, str] = {
    "projected_efficiency": "Projected efficiency by world size",
    "projected_sensitivity": "Projected efficiency by straggling and bucket size",
}


def draw_projection(name: str, projection: Projection, output_path: str | Path) -> None:
    """Draw one figure, as `draw` does. Raises ConfigError, DependencyMissing and OSError."""
    if name not in PROJECTION_FIGURES:
        raise ConfigError("figure", name, f"one of {', '.join(PROJECTION_FIGURES)}")
    output = svg_path(output_path)
    style = load_part("style")
    render: Callable[[Projection], Figure] = load_part(name).render
    with style.paper():
        save_figure(render(projection), PROJECTION_FIGURES[name], output)
