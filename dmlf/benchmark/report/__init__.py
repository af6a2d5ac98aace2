"""report.md: what the runs show, for a reader who knows nothing of the code.

The order is the argument's: the answer, then why the runs are right, then how far the numbers can
be trusted, then the numbers. Every sentence with a number in it is produced from the table.
"""

from __future__ import annotations

import os
from pathlib import Path

from dmlf.benchmark.cohorts import Cohort, cohorts
from dmlf.benchmark.collective.load import Loaded, load
from dmlf.benchmark.files import write_text
from dmlf.benchmark.report.answer import answer
from dmlf.benchmark.report.appendix import all_claims, all_runs, glossary
from dmlf.benchmark.report.collectives import collectives
from dmlf.benchmark.report.correctness import correctness, not_completed
from dmlf.benchmark.report.environment import environment
from dmlf.benchmark.report.figures import Places, figure_sections
from dmlf.benchmark.report.validity import validity
from dmlf.benchmark.statements import judge_claims
from dmlf.benchmark.table import Table, read_table


def write_report(
    table_path: str | Path,
    figures_dir: str | Path,
    output_path: str | Path,
    collectives_path: str | Path | None = None,
) -> None:
    """Write the report of a table, with links to the figures relative to the report's folder.

    Works for any table: without checked runs it says so and claims nothing, and the same for the
    record of the collectives, which may be absent (None: there is to be none). Paths are repeated
    in the commands that the report names. Raises MetricsError for a bad table, and OSError.
    """
    table = read_table(table_path)
    places = Places(
        figures=str(figures_dir),
        link=os.path.relpath(figures_dir, Path(output_path).parent),
        report=str(output_path),
    )
    write_text(output_path, render(table, places, load(collectives_path)))


def render(table: Table, places: Places, record: Loaded) -> str:
    """Return the report's text."""
    judged = [(cohort, judge_claims(cohort)) for cohort in cohorts(table.runs)]
    sections = [
        "# Distributed training: does it compute the same, and is it faster?",
        _opening(table, [cohort for cohort, _ in judged]),
        "## The answer",
        *([answer(cohort, claims) for cohort, claims in judged] or ["The table has no runs."]),
        "## Correctness",
        correctness([cohort for cohort, _ in judged]),
        "## Validity",
        validity(table.runs, [cohort for cohort, _ in judged]),
        "## Failed, skipped and missing runs",
        not_completed(table.runs),
        "## Environment",
        environment(table.runs),
        *figure_sections(judged, places),
        *collectives(record, places),
        "## All claims",
        all_claims(judged, places),
        "## All runs",
        all_runs(table.runs),
        "## Words",
        glossary(),
    ]
    return "\n\n".join(sections) + "\n"


def _opening(table: Table, parts: list[Cohort]) -> str:
    tasks = len({cohort.task for cohort in parts})
    return (
        "One model is trained on one data set in several ways: by one process alone (*serial*), "
        "and by several processes that exchange gradients after every step. This report compares "
        "the ways: first whether they compute the same, then how fast they do. "
        f"It was generated from {len(table.runs)} planned runs of {tasks} "
        f"task{'s' * (tasks != 1)}; every sentence with a number is computed from them. "
        "Words that are not plain English are explained under [Words](#words)."
    )
