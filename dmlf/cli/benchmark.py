"""Verbs that read results: gather, plot, report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the parser."""
    parser = verbs.add_parser(
        "gather",
        help="bring the metrics of many runs into one table",
        description="Read the metrics of all expected runs, check each, and write one CSV row "
        "per run; missing, failed and skipped runs are rows as well.",
    )
    parser.add_argument("--expected", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.set_defaults(run=_gather)

    parser = verbs.add_parser("plot", help="draw one figure from the table, as SVG and PNG")
    parser.add_argument("name", metavar="NAME", help="the figure, as in report/figures/NAME.svg")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.set_defaults(run=_plot)

    parser = verbs.add_parser("report", help="write the Markdown report from the table")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE")
    parser.add_argument("--figures", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.set_defaults(run=_report)


def _gather(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.gather import gather

    gather(parsed.expected, parsed.output)
    return 0


def _plot(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.plots import draw

    draw(parsed.name, parsed.table, parsed.output)
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from dmlf.benchmark.report import write_report

    write_report(parsed.table, parsed.figures, parsed.output)
    return 0
