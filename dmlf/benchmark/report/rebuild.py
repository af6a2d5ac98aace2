"""How to rebuild everything that the report shows."""

from __future__ import annotations

from collections.abc import Iterator

from dmlf.benchmark.plots import FAULTS, FAULTS_TITLE, FIGURES, RECORD_FIGURES
from dmlf.benchmark.report.markdown import code, table
from dmlf.benchmark.report.material import Material
from dmlf.benchmark.report.steps import PREFIX


def section(material: Material) -> Iterator[str]:
    """One command for each figure and file."""
    places = material.places
    shown = [
        *((title, f"{places.figures}/{name}.svg") for name, title in FIGURES.items()),
        *((title, f"{places.figures}/{name}.svg") for name, title in RECORD_FIGURES.items()),
        (FAULTS_TITLE, f"{places.figures}/{FAULTS}.svg"),
        ("What being ready for faults costs", "results/overhead.json"),
        ("Projection, and its figures", "results/projection.json"),
        *((f"One step of {s}", f"{places.figures}/{PREFIX}{s}.svg") for s in material.steps),
        ("The table of all runs", "results/runs.csv"),
        ("All training runs, and nothing else", "train"),
        ("This report", places.report),
    ]
    yield "## How to rebuild it"
    yield (
        "In the repository, in its environment (`make run` makes both): each command makes what is "
        "missing or out of date and nothing else; `--force` makes it anew."
    )
    yield table(("what", "command"), [[what, code(f"snakemake {path}")] for what, path in shown])
