"""The report: what the runs show, for a reader who knows nothing of the code.

The order is the argument's: the answer, how far to trust it, why the runs are right, then speed,
its price, all-reduce alone and faults; what fewer readers look for follows, and what is looked up
comes last. Every sentence with a number in it is produced from the table. One text, in Markdown, is
written as it is and as a page of HTML.
"""

from __future__ import annotations

import os
from pathlib import Path

from dmlf.benchmark.cohorts import cohorts
from dmlf.benchmark.collective.load import load
from dmlf.benchmark.faults.load import load as load_faults
from dmlf.benchmark.files import write_json, write_text
from dmlf.benchmark.report import (
    answer,
    appendix,
    artifact,
    collectives,
    correctness,
    cost_model,
    environment,
    faults,
    figures,
    opening,
    projection,
    rebuild,
    steps,
    validity,
)
from dmlf.benchmark.report.findings import findings
from dmlf.benchmark.report.material import Material, Places, Section
from dmlf.benchmark.report.page import page
from dmlf.benchmark.statements import judge_claims
from dmlf.benchmark.table import read_table
from dmlf.errors import ConfigError

TITLE = "Distributed training: does it compute the same, and is it faster?"
FINDINGS_NAME = "findings.json"
# In the order of the report. A section more is a file more, and a line here.
SECTIONS: tuple[Section, ...] = (
    opening.section,
    answer.section,
    validity.box_section,
    correctness.section,
    correctness.not_completed_section,
    figures.first_section,
    collectives.section,
    faults.section,
    figures.other_section,
    cost_model.section,
    projection.section,
    steps.section,
    validity.section,
    environment.section,
    appendix.claims_section,
    appendix.runs_section,
    rebuild.section,
    artifact.section,
    appendix.words_section,
)


def write_report(
    table_path: str | Path,
    figures_dir: str | Path,
    output_path: str | Path,
    collectives_path: str | Path | None = None,
    projection_path: str | Path | None = None,
    faults_path: str | Path | None = None,
    overhead_path: str | Path | None = None,
) -> None:
    """Write the report of a table: `output_path` (.md), the same as .html, and findings.json.

    The Markdown links to the figures, relative to its folder; the page holds them. Works for any
    table: without checked runs it says so and claims nothing, and the same for the record of the
    collectives, the projection, the campaign of faults and the measurement of its price, which may
    be absent (None: there is to be none), and for figures. Paths are repeated in the commands that
    the report names. Raises ConfigError for another suffix,
    MetricsError for a bad table, DependencyMissing without markdown-it-py, and OSError.
    """
    output = Path(output_path)
    if output.suffix != ".md":
        raise ConfigError("output", str(output_path), "a path that ends in .md")
    table = read_table(table_path)
    material = Material(
        table=table,
        judged=tuple((cohort, tuple(judge_claims(cohort))) for cohort in cohorts(table.runs)),
        places=Places(
            figures=str(figures_dir),
            link=os.path.relpath(figures_dir, output.parent),
            report=str(output_path),
        ),
        collectives=load(collectives_path),
        faults=load_faults(faults_path, overhead_path),
        steps=steps.drawn(Path(figures_dir)),
        **projection.loaded(projection_path),
    )
    text = render(material)
    html = page(text, TITLE, output.parent)
    write_json(output.with_name(FINDINGS_NAME), findings(material))
    write_text(output.with_suffix(".html"), html)
    write_text(output, text)


def render(material: Material) -> str:
    """Return the report's text."""
    blocks = [f"# {TITLE}"]
    for section in SECTIONS:
        blocks.extend(section(material))
    return "\n\n".join(blocks) + "\n"
